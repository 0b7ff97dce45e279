/* Many TLS connections of one process on one epoll: opened, read, written, closed. What is said on them is the user's. */
#ifndef BENCH_STREAM_H
#define BENCH_STREAM_H

#include "common.h"

typedef struct stream {
    enum { CLOSED, CONNECTING, SHAKING, OPENED } phase;
    int fd, wants_out;
    SSL *ssl;
    X509 *certificate; /* with its key: the client's, NULL for none; set before it is opened */
    EVP_PKEY *key;
    uint8_t *in, *out;
    int in_length, in_size, out_length, out_sent, out_size;
} stream;

/* What the user is told. A user puts a stream first in a struct of its own. */
typedef struct stream_user {
    void (*opened)(stream *);  /* the handshake is done */
    int (*received)(stream *); /* in[0 .. in_length] has come; returns how many bytes were used up */
    void (*rested)(stream *);  /* all that had come was taken: the time to write */
    void (*lost)(stream *);    /* it could not be opened, or ended; it is closed */
} stream_user;

void streams_init(const stream_user *user);
void stream_open(stream *s, const char *host, int port);
void stream_add(stream *s, const void *bytes, int length); /* to what is written next */
uint8_t *stream_room(stream *s, int length);               /* the same, for bytes yet to be filled in */
void stream_flush(stream *s);
void stream_close(stream *s); /* at once, without a word; tells nobody */
void streams_wait(double seconds);

#endif
