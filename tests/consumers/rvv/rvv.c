/* RISC-V's vector instructions, applied to every lane of binary files.
 *
 *     rvv doubling OUT ACC M SHIFT VXRM     vsll, vsmul, vssra: int32, int32, int32 requantized to int32
 *     rvv wide     OUT ACC M SHIFT VXRM     vwmul, vnclip: the same
 *
 * VXRM is the rounding mode: 1 rnu, 2 rne, 3 rdn, 4 rod; that is, vxrm + 1. Files and exit codes are described in
 * ../c/binary_files.h; lanes must fill whole vectors of 4.
 *     riscv64-linux-gnu-gcc -std=c11 -O1 -static -march=rv64gcv -o rvv rvv.c
 *     qemu-riscv64-static -cpu rv64,v=true,vlen=128,vext_spec=v1.0 ./rvv doubling out.bin acc.bin m.bin s.bin 1
 */
#include <string.h>

#include "../c/binary_files.h"

int main(int argc, char **argv)
{
    if (argc != 7 || (strcmp(argv[1], "doubling") != 0 && strcmp(argv[1], "wide") != 0))
        refuse(argv[0], "call me as: doubling|wide OUT ACC M SHIFT VXRM");
    size_t n = count_elements(argv[3], 4);
    if (n % 4 != 0)
        refuse(argv[3], "does not fill whole vectors");
    const int32_t *acc = read_array(argv[3], n, 4), *m = read_array(argv[4], n, 4), *s = read_array(argv[5], n, 4);
    int32_t *out = new_array(n, 4);
    __asm__ volatile("csrw vxrm, %0" : : "r"(positive_number(argv[6]) - 1));
    for (size_t i = 0; i < n; i += 4) {
        int32_t left[4], right[4], places[4];
        for (int k = 0; k < 4; ++k) {
            left[k] = s[i + k] > 0 ? s[i + k] : 0;
            right[k] = s[i + k] < 0 ? -s[i + k] : 0;
            places[k] = 31 - s[i + k];
        }
        if (argv[1][0] == 'd')
            __asm__ volatile("vsetivli zero, 4, e32, m1, ta, ma\n\t"
                             "vle32.v v1, (%0)\n\tvle32.v v2, (%1)\n\tvle32.v v3, (%2)\n\tvle32.v v4, (%3)\n\t"
                             "vsll.vv v1, v1, v3\n\tvsmul.vv v1, v1, v2\n\tvssra.vv v1, v1, v4\n\t"
                             "vse32.v v1, (%4)"
                             : : "r"(acc + i), "r"(m + i), "r"(left), "r"(right), "r"(out + i)
                             : "memory");
        else
            __asm__ volatile("vsetivli zero, 4, e32, m1, ta, ma\n\t"
                             "vle32.v v1, (%0)\n\tvle32.v v2, (%1)\n\tvle32.v v4, (%2)\n\t"
                             "vwmul.vv v8, v1, v2\n\tvnclip.wv v1, v8, v4\n\tvse32.v v1, (%3)"
                             : : "r"(acc + i), "r"(m + i), "r"(places), "r"(out + i)
                             : "memory");
    }
    write_array(argv[2], out, n, 4);
    return 0;
}
