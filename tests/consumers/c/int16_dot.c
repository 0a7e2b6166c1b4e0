/* A device with a bug: it adds products of 7-bit codes in one int16 register, however many there are.
 *
 *     ./int16_dot CASE OUT     reads CASE/x.hex and CASE/w.hex, writes OUT/expected.hex
 */
#include <stdint.h>
#include <stdio.h>

int main(int count, char **arguments)
{
    char path[4096];
    FILE *files[3];
    const char *names[] = {"x.hex", "w.hex", "expected.hex"};
    for (int i = 0; i < 3; i++) {
        if (count != 3 || snprintf(path, sizeof path, "%s/%s", arguments[i == 2 ? 2 : 1], names[i]) >= 4096
            || !(files[i] = fopen(path, i == 2 ? "w" : "r")))
            return 2;
    }
    uint16_t sum = 0; /* unsigned, so that it wraps as a register does */
    unsigned x, w;
    while (fscanf(files[0], "%x", &x) == 1 && fscanf(files[1], "%x", &w) == 1) {
        int a = x < 64 ? (int)x : (int)x - 128, b = w < 64 ? (int)w : (int)w - 128;
        sum = (uint16_t)(sum + a * b);
    }
    fprintf(files[2], "%08x\n", (unsigned)(sum < 0x8000 ? sum : sum - 0x10000));
    return fclose(files[2]) == 0 ? 0 : 2;
}
