// Runs winograd_f23 on tiles and kernels from files and compares V, U, the sums and the outputs with others.
//
//     iverilog -g2012 -Wall -P winograd_f23_tb.GROUPS=100 -o tb.vvp winograd_f23_tb.v winograd_f23.v
//     vvp -n tb.vvp
//
// A group is CHANNELS tiles and kernels, one per clock, whose products are added up. The files are in the current
// directory, a word per line: d.hex and g.hex 8 bits, v.hex and u.hex 16, all for each channel; sum.hex and y.hex
// 32, for each group. Ends with "PASS" and the number of words compared, or with $fatal: `!==` also sees an
// unknown bit, and files are counted, because $readmemh takes a missing or a short one with a mere warning.
module winograd_f23_tb;
    parameter GROUPS = 1;
    parameter CHANNELS = 1;
    parameter V_BITS = 16;
    parameter U_BITS = 16;
    parameter SUM_BITS = 32;
    localparam STEPS = GROUPS * CHANNELS;

    reg [7:0]  d_file   [0:16*STEPS-1];
    reg [7:0]  g_file   [0:9*STEPS-1];
    reg [15:0] v_file   [0:16*STEPS-1];
    reg [15:0] u_file   [0:16*STEPS-1];
    reg [31:0] sum_file [0:16*GROUPS-1];
    reg [31:0] y_file   [0:4*GROUPS-1];

    reg clock = 0, first = 0;
    reg  [16*8-1:0]        tile;
    reg  [9*8-1:0]         kernel;
    wire [16*V_BITS-1:0]   v;
    wire [16*U_BITS-1:0]   u;
    wire [16*SUM_BITS-1:0] sum;
    wire [4*SUM_BITS-1:0]  y;

    winograd_f23 #(V_BITS, U_BITS, SUM_BITS) dut (clock, first, tile, kernel, v, u, sum, y);

    task expect_words(input [8*7:1] name, input integer wanted);
        integer file, words;
        reg [31:0] word;
        begin
            file = $fopen(name, "r");
            words = 0;
            if (file != 0)
                while ($fscanf(file, "%h", word) == 1)
                    words = words + 1;
            if (words != wanted)
                $fatal(1, "%0s has %0d words instead of %0d", name, words, wanted);
            $fclose(file);
        end
    endtask

    integer compared = 0;

    task check(input [8*3:1] name, input integer where, input integer index, input signed [31:0] got,
               input signed [31:0] wanted);
        begin
            if (got !== wanted)
                $fatal(1, "%0s[%0d][%0d] is %0d instead of %0d", name, where, index, got, wanted);
            compared = compared + 1;
        end
    endtask

    integer group, step, k;

    initial begin
        expect_words("d.hex", 16*STEPS);
        expect_words("g.hex", 9*STEPS);
        expect_words("v.hex", 16*STEPS);
        expect_words("u.hex", 16*STEPS);
        expect_words("sum.hex", 16*GROUPS);
        expect_words("y.hex", 4*GROUPS);
        $readmemh("d.hex", d_file);
        $readmemh("g.hex", g_file);
        $readmemh("v.hex", v_file);
        $readmemh("u.hex", u_file);
        $readmemh("sum.hex", sum_file);
        $readmemh("y.hex", y_file);

        for (group = 0; group < GROUPS; group = group + 1) begin
            for (step = group*CHANNELS; step < (group + 1)*CHANNELS; step = step + 1) begin
                for (k = 0; k < 16; k = k + 1)
                    tile[8*k +: 8] = d_file[16*step + k];
                for (k = 0; k < 9; k = k + 1)
                    kernel[8*k +: 8] = g_file[9*step + k];
                first = step == group*CHANNELS;
                #1;
                for (k = 0; k < 16; k = k + 1) begin
                    check("V", step, k, $signed(v[V_BITS*k +: V_BITS]), $signed(v_file[16*step + k]));
                    check("U", step, k, $signed(u[U_BITS*k +: U_BITS]), $signed(u_file[16*step + k]));
                end
                clock = 1;
                #1 clock = 0;
            end
            #1;
            for (k = 0; k < 16; k = k + 1)
                check("sum", group, k, $signed(sum[SUM_BITS*k +: SUM_BITS]), sum_file[16*group + k]);
            for (k = 0; k < 4; k = k + 1)
                check("y", group, k, $signed(y[SUM_BITS*k +: SUM_BITS]), y_file[4*group + k]);
        end
        $display("PASS %0d", compared);
        $finish;
    end
endmodule
