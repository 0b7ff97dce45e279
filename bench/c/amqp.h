/* Just enough AMQP 1.0 for a light client: values written, frames read. */
#ifndef BENCH_AMQP_H
#define BENCH_AMQP_H

#include <stddef.h>
#include <stdint.h>

enum performative {
    OPEN = 0x10, BEGIN, ATTACH, FLOW, TRANSFER, DISPOSITION, DETACH, END, CLOSE,
    SASL_MECHANISMS = 0x40, SASL_INIT, SASL_CHALLENGE, SASL_RESPONSE, SASL_OUTCOME
};

/* Bytes being written. Lists, maps and frames are opened and closed; their sizes are filled in on closing. */
typedef struct writer {
    uint8_t bytes[8192];
    size_t length;
} writer;

size_t frame_begin(writer *w, int sasl, enum performative code);
void frame_end(writer *w, size_t start);
size_t described(writer *w, uint64_t code); /* a list behind a descriptor; closed with compound_end */
size_t list_begin(writer *w);
size_t map_begin(writer *w);
void compound_end(writer *w, size_t start, int count);
void put_null(writer *w);
void put_bool(writer *w, int value);
void put_ubyte(writer *w, unsigned value);
void put_uint(writer *w, uint32_t value);
void put_string(writer *w, const char *text);
void put_symbol(writer *w, const char *text);
void put_binary(writer *w, const void *bytes, size_t length);
void put_raw(writer *w, const void *bytes, size_t length);

/* A frame as read. `fields` are those of the performative's list; `payload` is what stands behind it. */
typedef struct frame {
    int performative, channel; /* performative 0: an empty frame */
    const uint8_t *fields, *payload;
    int field_count;
    size_t payload_length;
} frame;

/* Read the frame at `bytes`, all `length` of them there. Ends the program when it is not one. */
frame frame_read(const uint8_t *bytes, size_t length);

/* The number in a field, or `otherwise` when the field is null or not there; true is 1. */
uint64_t field_number(const frame *f, int index, uint64_t otherwise);

/* The content of a string or symbol in a field and its length; NULL when there is none. */
const char *field_text(const frame *f, int index, size_t *length);

/* The descriptor of the described value in a field, such as an outcome; 0 when there is none. */
unsigned field_descriptor(const frame *f, int index);

/* The message of a put-token for `audience`. Its answer's status, or 0 when it has none. */
void write_put_token(writer *w, const char *audience, const char *token);
unsigned put_token_status(const frame *f);

#endif
