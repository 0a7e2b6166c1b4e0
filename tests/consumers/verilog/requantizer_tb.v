// Reads CASE/x.hex, m.hex, shift.hex and zero_point.hex, and writes OUT/expected.hex.
//     vvp -n requantizer_tb.vvp +case=CASE +out=OUT +rows=N [+unsigned] [+narrow]
module requantizer_tb;
    localparam DEPTH = 65536;
    reg [31:0] x [0:DEPTH-1];
    reg [31:0] m [0:DEPTH-1];
    reg [7:0] shift [0:DEPTH-1];
    reg [7:0] zero_point [0:DEPTH-1];
    reg [8*512-1:0] folder, out;
    reg signed [16:0] z, low, high;
    wire signed [16:0] y;
    reg signed [31:0] sum;
    reg [30:0] factor;
    reg signed [5:0] places;
    integer rows, row, answers;

    requantizer device (sum, factor, places, z, low, high, y);

    initial begin
        if (!$value$plusargs("case=%s", folder) || !$value$plusargs("out=%s", out)
            || !$value$plusargs("rows=%d", rows)) begin
            $display("usage: +case= +out= +rows=");
            $fatal(1);
        end
        $readmemh({folder, "/x.hex"}, x, 0, rows - 1);
        $readmemh({folder, "/m.hex"}, m, 0, rows - 1);
        $readmemh({folder, "/shift.hex"}, shift, 0, rows - 1);
        $readmemh({folder, "/zero_point.hex"}, zero_point, 0, rows - 1);
        low = $test$plusargs("unsigned") ? 17'sd0 : $test$plusargs("narrow") ? -17'sd127 : -17'sd128;
        high = $test$plusargs("unsigned") ? 17'sd255 : 17'sd127;
        answers = $fopen({out, "/expected.hex"}, "w");
        for (row = 0; row < rows; row = row + 1) begin
            if ((^x[row]) === 1'bx || (^m[row]) === 1'bx || (^shift[row]) === 1'bx || (^zero_point[row]) === 1'bx) begin
                $display("word %0d of an input is missing", row);
                $fatal(1);
            end
            sum = x[row]; factor = m[row][30:0]; places = shift[row][5:0];
            z = $test$plusargs("unsigned") ? {9'b0, zero_point[row]} : {{9{zero_point[row][7]}}, zero_point[row]};
            #1 $fdisplay(answers, "%h", y[7:0]);
        end
        $fclose(answers);
        $display("DONE %0d", rows);
        $finish;
    end
endmodule
