"""``refquant.commands.quantize`` under its former name."""

from refquant.commands.quantize import load_data

__all__ = ["load_data"]
