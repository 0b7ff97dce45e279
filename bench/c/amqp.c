#define _GNU_SOURCE
#include "amqp.h"

#include "common.h"

#include <string.h>

static void put(writer *w, const void *bytes, size_t length) {
    if (w->length + length > sizeof w->bytes) fail("an AMQP frame of ours grew too long");
    memcpy(w->bytes + w->length, bytes, length);
    w->length += length;
}

static void put_byte(writer *w, unsigned value) { put(w, &(uint8_t){(uint8_t)value}, 1); }

static void set_u32(uint8_t *to, size_t value) {
    for (int i = 0; i < 4; i++) to[i] = (uint8_t)(value >> (24 - 8 * i));
}

static uint64_t get(const uint8_t *from, int bytes) {
    uint64_t value = 0;
    for (int i = 0; i < bytes; i++) value = value << 8 | from[i];
    return value;
}

static void put_sized(writer *w, unsigned code, const void *bytes, size_t length) {
    uint8_t size[4];
    set_u32(size, length);
    put_byte(w, code);
    put(w, size, 4);
    put(w, bytes, length);
}

size_t list_begin(writer *w) {
    size_t start = w->length;
    put(w, (uint8_t[9]){0xD0}, 9);
    return start;
}

size_t map_begin(writer *w) {
    size_t start = w->length;
    put(w, (uint8_t[9]){0xD1}, 9);
    return start;
}

void compound_end(writer *w, size_t start, int count) {
    set_u32(w->bytes + start + 1, w->length - start - 5);
    set_u32(w->bytes + start + 5, (size_t)count);
}

size_t described(writer *w, uint64_t code) {
    put(w, (uint8_t[3]){0x00, 0x53, (uint8_t)code}, 3);
    return list_begin(w);
}

size_t frame_begin(writer *w, int sasl, enum performative code) {
    size_t start = w->length;
    put(w, (uint8_t[8]){0, 0, 0, 0, 2, (uint8_t)sasl, 0, 0}, 8);
    described(w, code);
    return start;
}

void frame_end(writer *w, size_t start) { set_u32(w->bytes + start, w->length - start); }

void put_null(writer *w) { put_byte(w, 0x40); }
void put_bool(writer *w, int value) { put_byte(w, value ? 0x41 : 0x42); }
void put_string(writer *w, const char *text) { put_sized(w, 0xB1, text, strlen(text)); }
void put_symbol(writer *w, const char *text) { put_sized(w, 0xB3, text, strlen(text)); }
void put_binary(writer *w, const void *bytes, size_t length) { put_sized(w, 0xB0, bytes, length); }
void put_raw(writer *w, const void *bytes, size_t length) { put(w, bytes, length); }

void put_ubyte(writer *w, unsigned value) {
    put_byte(w, 0x50);
    put_byte(w, value);
}

void put_uint(writer *w, uint32_t value) {
    uint8_t bytes[4];
    set_u32(bytes, value);
    put_byte(w, 0x70);
    put(w, bytes, 4);
}

/* The length of the value at `at`; the upper half of a type code says how its size is given (AMQP 1.0 part 1, 1.2). */
static size_t value_length(const uint8_t *at, const uint8_t *end) {
    size_t need = 0;
    if (at >= end) fail("a truncated AMQP value");
    switch (*at >> 4) {
    case 0x0: {
        size_t descriptor = value_length(at + 1, end);
        return 1 + descriptor + value_length(at + 1 + descriptor, end);
    }
    case 0x4: return 1;
    case 0x5: return 2;
    case 0x6: return 3;
    case 0x7: return 5;
    case 0x8: return 9;
    case 0x9: return 17;
    case 0xA: case 0xC: case 0xE: need = at + 2 <= end ? 2 + get(at + 1, 1) : 0; break;
    case 0xB: case 0xD: case 0xF: need = at + 5 <= end ? 5 + get(at + 1, 4) : 0; break;
    }
    if (!need || need > (size_t)(end - at)) fail("an AMQP value of a wrong length");
    return need;
}

frame frame_read(const uint8_t *bytes, size_t length) {
    frame f = {.channel = bytes[6] << 8 | bytes[7]};
    const uint8_t *end = bytes + length, *at = bytes + (size_t)bytes[4] * 4;
    if (at == end) return f;
    if (end - at < 4 || at[0] != 0x00 || at[1] != 0x53) fail("not an AMQP performative");
    f.performative = at[2];
    at += 3;
    f.payload = at + value_length(at, end);
    f.payload_length = (size_t)(end - f.payload);
    switch (*at) {
    case 0x45: f.fields = f.payload; break;
    case 0xC0: f.field_count = at[2], f.fields = at + 3; break;
    case 0xD0: f.field_count = (int)get(at + 5, 4), f.fields = at + 9; break;
    default: fail("an AMQP performative is not a list");
    }
    return f;
}

/* The value of a field; NULL when the list is shorter. */
static const uint8_t *field(const frame *f, int index) {
    const uint8_t *at = f->fields;
    if (index >= f->field_count) return NULL;
    while (index--) at += value_length(at, f->payload);
    return at;
}

uint64_t field_number(const frame *f, int index, uint64_t otherwise) {
    const uint8_t *at = field(f, index);
    if (!at) return otherwise;
    switch (*at) {
    case 0x41: case 0x42: return *at == 0x41;
    case 0x43: case 0x44: return 0;
    case 0x50: case 0x52: case 0x53: case 0x54: case 0x56: return at[1];
    case 0x60: return get(at + 1, 2);
    case 0x70: return get(at + 1, 4);
    case 0x80: return get(at + 1, 8);
    default: return otherwise;
    }
}

const char *field_text(const frame *f, int index, size_t *length) {
    const uint8_t *at = field(f, index);
    if (!at || (*at & 0xE0) != 0xA0) return NULL;
    int wide = *at & 0x10;
    *length = wide ? get(at + 1, 4) : at[1];
    return (const char *)at + (wide ? 5 : 2);
}

unsigned field_descriptor(const frame *f, int index) {
    const uint8_t *at = field(f, index);
    if (!at || at[0] != 0x00) return 0;
    return at[1] == 0x53 ? at[2] : at[1] == 0x80 ? at[9] : 0;
}

void write_put_token(writer *w, const char *audience, const char *token) {
    size_t properties = described(w, 0x73);
    put_string(w, "bench-1");
    for (int i = 0; i < 3; i++) put_null(w);
    put_string(w, "$cbs");
    compound_end(w, properties, 5);
    put_raw(w, (uint8_t[3]){0x00, 0x53, 0x74}, 3);
    size_t map = map_begin(w);
    put_string(w, "operation");
    put_string(w, "put-token");
    put_string(w, "type");
    put_string(w, "servicebus.windows.net:sastoken");
    put_string(w, "name");
    put_string(w, audience);
    compound_end(w, map, 6);
    put_raw(w, (uint8_t[3]){0x00, 0x53, 0x77}, 3);
    put_string(w, token);
}

/* The number behind the text `status-code`. */
unsigned put_token_status(const frame *f) {
    const uint8_t *code = memmem(f->payload, f->payload_length, "status-code", 11);
    if (!code || (size_t)(code - f->payload) + 16 > f->payload_length) return 0;
    return code[11] == 0x71 ? (unsigned)(code[14] << 8 | code[15]) : code[12];
}
