// Reads CASE/x.hex and CASE/w.hex, rows of K codes, and writes OUT/expected.hex and OUT/expected_sums.hex.
//     vvp -n mac_tb.vvp +case=CASE +out=OUT +rows=N +length=K [+descending] [+flags]
module mac_tb;
    parameter BITS = 16, SATURATE = 0;
    localparam DEPTH = 65536;
    reg [7:0] x [0:DEPTH-1];
    reg [7:0] w [0:DEPTH-1];
    reg clock = 0, clear = 1;
    reg signed [7:0] a = 0, b = 0;
    wire signed [BITS-1:0] acc;
    wire overflow;
    reg [8*512-1:0] folder, out;
    integer rows, length, row, k, at, answers, sums, step;

    mac #(.BITS(BITS), .SATURATE(SATURATE)) device (clock, clear, a, b, acc, overflow);

    initial begin
        if (!$value$plusargs("case=%s", folder) || !$value$plusargs("out=%s", out)
            || !$value$plusargs("rows=%d", rows) || !$value$plusargs("length=%d", length)) begin
            $display("usage: +case= +out= +rows= +length=");
            $fatal(1);
        end
        $readmemh({folder, "/x.hex"}, x, 0, rows * length - 1);
        $readmemh({folder, "/w.hex"}, w, 0, rows * length - 1);
        answers = $fopen({out, "/expected.hex"}, "w");
        sums = $test$plusargs("flags") ? 0 : $fopen({out, "/expected_sums.hex"}, "w");
        for (row = 0; row < rows; row = row + 1) begin
            clear = 1; #1 clock = 1; #1 clock = 0; clear = 0;
            for (step = 0; step < length; step = step + 1) begin
                k = $test$plusargs("descending") ? length - 1 - step : step;
                at = row * length + k;
                if ((^x[at]) === 1'bx || (^w[at]) === 1'bx) begin
                    $display("word %0d of x.hex or w.hex is missing", at);
                    $fatal(1);
                end
                a = x[at]; b = w[at];
                #1 clock = 1; #1 clock = 0;
                if (sums != 0) $fdisplay(sums, "%h", acc);
            end
            if ($test$plusargs("flags")) $fdisplay(answers, "%h", overflow);
            else $fdisplay(answers, "%h", acc);
        end
        $fclose(answers);
        if (sums != 0) $fclose(sums);
        $display("DONE %0d", rows);
        $finish;
    end
endmodule
