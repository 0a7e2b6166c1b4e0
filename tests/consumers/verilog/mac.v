// A multiply-accumulate register of BITS bits: wraps, or saturates with SATURATE = 1; `overflow` is sticky.
// -DPLANT_NARROW keeps one bit less.
module mac #(parameter BITS = 16, parameter SATURATE = 0) (
    input  wire                    clock,
    input  wire                    clear,
    input  wire signed [7:0]       x,
    input  wire signed [7:0]       w,
    output reg  signed [BITS-1:0]  acc,
    output reg                     overflow
);
    wire signed [15:0] product = x * w;
    wire signed [BITS:0] exact = {acc[BITS-1], acc} + {{(BITS - 15){product[15]}}, product};
`ifdef PLANT_NARROW
    wire fits = exact[BITS] == exact[BITS-1] && exact[BITS-1] == exact[BITS-2];
`else
    wire fits = exact[BITS] == exact[BITS-1];
`endif
    wire [BITS-1:0] limit = {exact[BITS], {(BITS - 1){~exact[BITS]}}};

    always @(posedge clock)
        if (clear) begin
            acc <= 0;
            overflow <= 0;
        end else begin
            acc <= (SATURATE != 0 && !fits) ? limit : exact[BITS-1:0];
            overflow <= overflow | ~fits;
        end
endmodule
