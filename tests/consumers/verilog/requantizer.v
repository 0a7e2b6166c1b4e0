// Dialect single_round: (x * m + 2^(30 - shift)) >> (31 - shift), the zero point added, clamped to low..high.
// -DPLANT_FLOOR drops the rounding constant; -DPLANT_ZERO adds the zero point after clamping.
module requantizer (
    input  wire signed [31:0] x,
    input  wire        [30:0] m,
    input  wire signed [5:0]  shift,
    input  wire signed [16:0] zero_point,
    input  wire signed [16:0] low,
    input  wire signed [16:0] high,
    output wire signed [16:0] y
);
    wire signed [63:0] product = $signed({{32{x[31]}}, x}) * $signed({33'b0, m});
    wire        [5:0]  places = 6'd31 - shift;  // 1 to 62, for shifts from -31 to 30
`ifdef PLANT_FLOOR
    wire signed [63:0] half = 0;
`else
    wire signed [63:0] half = 64'sd1 <<< (places - 6'd1);
`endif
    wire signed [63:0] value = (product + half) >>> places;
`ifdef PLANT_ZERO
    wire signed [63:0] moved = value;
    wire signed [16:0] late = zero_point;
`else
    wire signed [63:0] moved = value + $signed({{47{zero_point[16]}}, zero_point});
    wire signed [16:0] late = 0;
`endif
    wire below = moved < $signed({{47{low[16]}}, low});
    wire above = moved > $signed({{47{high[16]}}, high});
    assign y = (below ? low : above ? high : moved[16:0]) + late;
endmodule
