"""What the command line does, its reports and figures; ``refquant.cli`` is the entry.

Read in this order: ``demo``, ``quantize`` (a network and data of the reader's own), ``evaluation`` (what a report
says of a quantized network), ``kernel_check`` (a network's layers once more through lanes and Winograd), ``report``
(tables and figures), ``run`` and ``compare`` (quantized models as runtimes compute them), ``identify``, ``vectors``
and ``exercise`` (from ``run`` on with their parsers), ``qat`` (training beside post-training quantization).
``arguments`` holds the types of command line arguments.
"""
