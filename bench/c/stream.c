#define _GNU_SOURCE
#include "stream.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#ifndef IP_BIND_ADDRESS_NO_PORT
#define IP_BIND_ADDRESS_NO_PORT 24
#endif

enum { READ_SIZE = 16384, SOURCE_ADDRESSES = 60 };

static SSL_CTX *tls;
static int epoll;
static const stream_user *user;

void streams_init(const stream_user *the_user) {
    user = the_user;
    tls = client_context();
    epoll = epoll_create1(EPOLL_CLOEXEC);
}

uint8_t *stream_room(stream *s, int length) {
    if (s->out_length + length > s->out_size) {
        s->out_size = (s->out_length + length) * 2;
        s->out = realloc(s->out, (size_t)s->out_size);
    }
    s->out_length += length;
    return s->out + s->out_length - length;
}

void stream_add(stream *s, const void *bytes, int length) { memcpy(stream_room(s, length), bytes, (size_t)length); }

static void watch(stream *s, int out) {
    if (s->wants_out == out) return;
    s->wants_out = out;
    struct epoll_event event = {.events = EPOLLIN | (out ? EPOLLOUT : 0u), .data.ptr = s};
    epoll_ctl(epoll, EPOLL_CTL_MOD, s->fd, &event);
}

void stream_close(stream *s) {
    if (s->phase == CLOSED) return;
    s->phase = CLOSED;
    if (s->ssl) SSL_set_quiet_shutdown(s->ssl, 1);
    SSL_free(s->ssl);
    s->ssl = NULL;
    close(s->fd);
    s->fd = -1;
    s->in_length = s->out_length = s->out_sent = 0;
}

static void lose(stream *s) {
    if (s->phase == CLOSED) return;
    ERR_clear_error();
    stream_close(s);
    user->lost(s);
}

static int wants_more(SSL *ssl, int result) {
    int error = SSL_get_error(ssl, result);
    return error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE;
}

void stream_flush(stream *s) {
    while (s->phase == OPENED && s->out_sent < s->out_length) {
        int written = SSL_write(s->ssl, s->out + s->out_sent, s->out_length - s->out_sent);
        if (written <= 0) {
            if (wants_more(s->ssl, written)) watch(s, 1);
            else lose(s);
            return;
        }
        s->out_sent += written;
    }
    s->out_sent = s->out_length = 0;
    if (s->phase == OPENED) watch(s, 0);
}

void stream_open(stream *s, const char *host, int port) {
    static unsigned next_source;
    int one = 1;
    s->phase = CONNECTING;
    s->wants_out = 1;
    s->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (s->fd < 0) fail("no more sockets: raise the limit on open files");
    setsockopt(s->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    setsockopt(s->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
    /* From many loopback addresses, so that a storm does not run out of ports. */
    struct sockaddr_in address = {.sin_family = AF_INET};
    address.sin_addr.s_addr = htonl(0x7f000002u + next_source++ % SOURCE_ADDRESSES);
    bind(s->fd, (struct sockaddr *)&address, sizeof address);
    address.sin_port = htons((uint16_t)port);
    inet_pton(AF_INET, host, &address.sin_addr);
    if (connect(s->fd, (struct sockaddr *)&address, sizeof address) < 0 && errno != EINPROGRESS) {
        lose(s);
        return;
    }
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT, .data.ptr = s};
    epoll_ctl(epoll, EPOLL_CTL_ADD, s->fd, &event);
}

/* Whether the stream is past its handshake. */
static int shaken(stream *s, uint32_t events) {
    if (s->phase == CONNECTING) {
        int error = 0;
        socklen_t size = sizeof error;
        getsockopt(s->fd, SOL_SOCKET, SO_ERROR, &error, &size);
        if (error) lose(s);
        if (error || !(events & EPOLLOUT)) return 0;
        s->ssl = SSL_new(tls);
        SSL_set_fd(s->ssl, s->fd);
        if (s->key) SSL_use_certificate(s->ssl, s->certificate), SSL_use_PrivateKey(s->ssl, s->key);
        SSL_set_connect_state(s->ssl);
        s->phase = SHAKING;
    }
    if (s->phase == SHAKING) {
        int result = SSL_do_handshake(s->ssl);
        if (result != 1) {
            if (wants_more(s->ssl, result)) watch(s, SSL_want_write(s->ssl));
            else lose(s);
            return 0;
        }
        s->phase = OPENED;
        user->opened(s);
        stream_flush(s);
    }
    return s->phase == OPENED;
}

static void take(stream *s) {
    int used = user->received(s);
    if (s->phase == CLOSED || !used) return;
    memmove(s->in, s->in + used, (size_t)(s->in_length - used));
    s->in_length -= used;
}

static void on_event(stream *s, uint32_t events) {
    if (s->phase == CLOSED || !shaken(s, events)) return;
    if (events & EPOLLOUT) stream_flush(s);
    while (s->phase != CLOSED) {
        if (s->in_size - s->in_length < READ_SIZE) {
            s->in_size = s->in_length + READ_SIZE;
            s->in = realloc(s->in, (size_t)s->in_size);
        }
        int got = SSL_read(s->ssl, s->in + s->in_length, s->in_size - s->in_length);
        if (got <= 0) {
            if (!wants_more(s->ssl, got)) lose(s);
            break;
        }
        s->in_length += got;
        take(s);
        if (s->phase == CLOSED || !SSL_has_pending(s->ssl)) break;
    }
    if (s->phase == CLOSED) return;
    user->rested(s);
    if (s->out_length) stream_flush(s);
}

void streams_wait(double seconds) {
    struct epoll_event events[512];
    struct timespec limit = {.tv_sec = (time_t)seconds, .tv_nsec = (long)((seconds - (double)(time_t)seconds) * 1e9)};
    int count = epoll_pwait2(epoll, events, 512, &limit, NULL);
    for (int i = 0; i < count; i++) on_event(events[i].data.ptr, events[i].events);
}
