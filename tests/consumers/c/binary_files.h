/* The protocol between a test and a consumer: bare arrays in files.
 *
 * A consumer is called as
 *     program OPERATION OUT IN... [number...]
 * IN and OUT hold one array each, without header: element 0 first, two's complement, little-endian.
 * Exit code 0: OUT is written. 2: the call or a file is wrong, stderr says how. 3: a lane overflowed, stdout
 * names it. 1 is left to the sanitizer, which ends the program with it on undefined behaviour.
 */
#ifndef BINARY_FILES_H
#define BINARY_FILES_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "arrays are read as they lie in the file");

enum { EXIT_BAD_CALL = 2, EXIT_OVERFLOW = 3 };

static inline _Noreturn void refuse(const char *what, const char *why)
{
    fprintf(stderr, "%s: %s\n", what, why);
    exit(EXIT_BAD_CALL);
}

/* How many elements of `width` bytes a file holds. */
static inline size_t count_elements(const char *path, size_t width)
{
    FILE *file = fopen(path, "rb");
    if (!file || fseek(file, 0, SEEK_END) != 0)
        refuse(path, "cannot be read");
    long size = ftell(file);
    fclose(file);
    if (size < 0 || (size_t)size % width != 0)
        refuse(path, "does not hold whole elements");
    return (size_t)size / width;
}

static inline void *new_array(size_t count, size_t width)
{
    void *array = calloc(count + 1, width); /* one too many, so that no array is empty */
    if (!array)
        refuse("an array", "no memory");
    return array;
}

/* The file's `count` elements; any other number is refused, for a short read would compare nothing. */
static inline void *read_array(const char *path, size_t count, size_t width)
{
    if (count_elements(path, width) != count)
        refuse(path, "has another number of elements than the first operand asks for");
    void *array = new_array(count, width);
    FILE *file = fopen(path, "rb");
    if (!file || fread(array, width, count, file) != count)
        refuse(path, "cannot be read");
    fclose(file);
    return array;
}

static inline void write_array(const char *path, const void *array, size_t count, size_t width)
{
    FILE *file = fopen(path, "wb");
    if (!file || fwrite(array, width, count, file) != count || fclose(file) != 0)
        refuse(path, "cannot be written");
}

/* A decimal number from the command line, at least 1. */
static inline size_t positive_number(const char *text)
{
    char *end;
    long value = strtol(text, &end, 10);
    if (end == text || *end != '\0' || value < 1)
        refuse(text, "must be a number >= 1");
    return (size_t)value;
}

#endif
