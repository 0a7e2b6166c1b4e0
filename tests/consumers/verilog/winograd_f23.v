// Integer Winograd F(2x2, 3x3): four outputs of a 3x3 convolution from a 4x4 tile by 16 multiplications.
//
//     sum = sum over channels of U * V, entry by entry      V = BT d B      U = G g GT  (G doubled)
//     y   = (AT sum A) >> 2
//
//     BT = 1  0 -1  0     G = 2  0  0     AT = 1  1  1  0
//          0  1  1  0         1  1  1          0  1 -1 -1
//          0 -1  1  0         1 -1  1
//          0  1  0 -1         0  0  2
//
// A channel per clock: with each rising edge the products of the tile and kernel at the inputs are added to the
// sums, or begin new ones if `first` is set. V, U and y follow their inputs and the sums without a clock.
//
// The doubled G makes the outputs four times the convolution, so that the shift drops two zeros: it is exact.
// For 7-bit codes (-63..63) V needs 9 bits, U 11, the products 19, and so do the sums of one channel; no register
// saturates or tells an overflow, so the widths have to be proven.
module winograd_f23 #(
    parameter V_BITS = 16,
    parameter U_BITS = 16,
    parameter SUM_BITS = 32
) (
    input  wire                   clock,
    input  wire                   first,
    input  wire [16*8-1:0]        tile,    // d[i][j] is byte 4i + j: a code in an 8-bit register
    input  wire [9*8-1:0]         kernel,  // g[i][j] is byte 3i + j
    output wire [16*V_BITS-1:0]   v,       // entry 4i + j
    output wire [16*U_BITS-1:0]   u,       // entry 4i + j
    output wire [16*SUM_BITS-1:0] sum,     // entry 4i + j
    output wire [4*SUM_BITS-1:0]  y        // entry 2i + j
);
    wire signed [V_BITS-1:0]   d  [0:15];  // the tile, with more bits
    wire signed [V_BITS-1:0]   bd [0:15];  // BT d
    wire signed [V_BITS-1:0]   vv [0:15];
    wire signed [U_BITS-1:0]   g  [0:8];
    wire signed [U_BITS-1:0]   gg [0:11];  // G g
    wire signed [U_BITS-1:0]   uu [0:15];
    reg  signed [SUM_BITS-1:0] m  [0:15];  // the sums
    wire signed [SUM_BITS-1:0] am [0:7];   // AT m

    genvar k;
    generate
        for (k = 0; k < 16; k = k + 1) begin : inputs
            assign d[k] = $signed(tile[8*k +: 8]);
            assign v[V_BITS*k +: V_BITS] = vv[k];
            assign u[U_BITS*k +: U_BITS] = uu[k];
            assign sum[SUM_BITS*k +: SUM_BITS] = m[k];
        end
        for (k = 0; k < 4; k = k + 1) begin : input_transform
            assign bd[k]      = d[k] - d[8 + k];
            assign bd[4 + k]  = d[4 + k] + d[8 + k];
            assign bd[8 + k]  = d[8 + k] - d[4 + k];
`ifdef PLANT_SIGN
            assign bd[12 + k] = d[12 + k] - d[4 + k];  // A mistake that the test must catch: another paper's BT.
`else
            assign bd[12 + k] = d[4 + k] - d[12 + k];
`endif
            assign vv[4*k]     = bd[4*k] - bd[4*k + 2];
            assign vv[4*k + 1] = bd[4*k + 1] + bd[4*k + 2];
            assign vv[4*k + 2] = bd[4*k + 2] - bd[4*k + 1];
            assign vv[4*k + 3] = bd[4*k + 1] - bd[4*k + 3];
        end
        for (k = 0; k < 9; k = k + 1) begin : kernel_inputs
            assign g[k] = $signed(kernel[8*k +: 8]);
        end
        for (k = 0; k < 3; k = k + 1) begin : kernel_columns
            assign gg[k]     = g[k] <<< 1;
            assign gg[3 + k] = g[k] + g[3 + k] + g[6 + k];
            assign gg[6 + k] = g[k] - g[3 + k] + g[6 + k];
            assign gg[9 + k] = g[6 + k] <<< 1;
        end
        for (k = 0; k < 4; k = k + 1) begin : kernel_rows
            assign uu[4*k]     = gg[3*k] <<< 1;
            assign uu[4*k + 1] = gg[3*k] + gg[3*k + 1] + gg[3*k + 2];
            assign uu[4*k + 2] = gg[3*k] - gg[3*k + 1] + gg[3*k + 2];
            assign uu[4*k + 3] = gg[3*k + 2] <<< 1;
        end
        for (k = 0; k < 16; k = k + 1) begin : accumulators
            // Both factors are extended to SUM_BITS before they are multiplied, with their signs.
            wire signed [SUM_BITS-1:0] product = uu[k] * vv[k];
            always @(posedge clock)
                m[k] <= first ? product : m[k] + product;
        end
        for (k = 0; k < 4; k = k + 1) begin : output_columns
            assign am[k]     = m[k] + m[4 + k] + m[8 + k];
            assign am[4 + k] = m[4 + k] - m[8 + k] - m[12 + k];
        end
        for (k = 0; k < 2; k = k + 1) begin : output_rows
            wire signed [SUM_BITS-1:0] left  = am[4*k] + am[4*k + 1] + am[4*k + 2];
            wire signed [SUM_BITS-1:0] right = am[4*k + 1] - am[4*k + 2] - am[4*k + 3];
`ifdef PLANT_SHIFT
            assign y[SUM_BITS*2*k +: 2*SUM_BITS] = {right >>> 1, left >>> 2};  // A mistake: one bit is not dropped.
`else
            assign y[SUM_BITS*2*k +: 2*SUM_BITS] = {right >>> 2, left >>> 2};
`endif
        end
    endgenerate
endmodule
