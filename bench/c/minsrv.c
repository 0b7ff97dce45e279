/* minsrv: the least a server can do that takes QoS 1 messages over TLS and has them on disk before it acknowledges.
 *
 * One thread, one epoll. It answers CONNECT, SUBSCRIBE, PINGREQ and PUBLISH, computes one HMAC-SHA256 a CONNECT, and
 * appends what arrived in a round of events to one file: one write, one fdatasync, then the PUBACKs. It checks no
 * credential, reads no topic and serves no reader: a floor to take ratios against, not a product. */
#define _GNU_SOURCE
#include "common.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/hmac.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { SCRATCH = 65536, ACCEPTS_A_ROUND = 64, READS_A_ROUND = 16, MAX_DIRTY = 1 << 17, LOG_LIMIT = 1 << 30 };

typedef struct connection {
    SSL *ssl;
    uint8_t *in, *out; /* an idle connection holds neither */
    int fd, in_length, out_length, out_sent, out_size;
    int greeted, ended, listed, wants_out;
} connection;

static int epoll, log_file = -1;
static int64_t log_size;
static connection *dirty[MAX_DIRTY]; /* connections with output, or ended, in this round */
static int dirty_count;
static uint8_t *batch, scratch[SCRATCH];
static size_t batch_length, batch_size;

static void list_dirty(connection *c) {
    if (c->listed) return;
    if (dirty_count == MAX_DIRTY) fail("too many connections");
    c->listed = 1;
    dirty[dirty_count++] = c;
}

static void out_add(connection *c, const void *bytes, int length) {
    if (c->out_length + length > c->out_size) {
        c->out_size = (c->out_length + length) * 2;
        c->out = realloc(c->out, (size_t)c->out_size);
    }
    memcpy(c->out + c->out_length, bytes, (size_t)length);
    c->out_length += length;
    list_dirty(c);
}

static void end(connection *c) {
    if (c->ended) return;
    c->ended = 1;
    SSL_free(c->ssl);
    close(c->fd);
    list_dirty(c);
}

static void watch(connection *c, int out) {
    if (c->wants_out == out) return;
    c->wants_out = out;
    struct epoll_event event = {.events = EPOLLIN | (out ? EPOLLOUT : 0u), .data.ptr = c};
    epoll_ctl(epoll, EPOLL_CTL_MOD, c->fd, &event);
}

static int wants_more(SSL *ssl, int result) {
    int error = SSL_get_error(ssl, result);
    if (error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE) return 1;
    ERR_clear_error();
    return 0;
}

static void flush(connection *c) {
    while (!c->ended && c->out_sent < c->out_length) {
        int written = SSL_write(c->ssl, c->out + c->out_sent, c->out_length - c->out_sent);
        if (written <= 0) {
            if (wants_more(c->ssl, written)) watch(c, 1);
            else end(c);
            return;
        }
        c->out_sent += written;
    }
    free(c->out);
    c->out = NULL;
    c->out_length = c->out_sent = c->out_size = 0;
    if (!c->ended) watch(c, 0);
}

static void log_add(const uint8_t *bytes, int length) {
    size_t record = sizeof(uint32_t) * 4 + (size_t)length;
    uint32_t head[4] = {(uint32_t)length};
    if (log_file < 0) return;
    if (batch_length + record > batch_size) {
        batch_size = (batch_length + record) * 2;
        batch = realloc(batch, batch_size);
    }
    memcpy(batch + batch_length, head, sizeof head);
    memcpy(batch + batch_length + sizeof head, bytes, (size_t)length);
    batch_length += record;
}

static void log_commit(void) {
    for (size_t written = 0; written < batch_length;) {
        ssize_t result = write(log_file, batch + written, batch_length - written);
        if (result <= 0) fail("cannot write the log: %s", strerror(errno));
        written += (size_t)result;
    }
    if (batch_length && fdatasync(log_file)) fail("cannot sync the log: %s", strerror(errno));
    log_size += (int64_t)batch_length;
    batch_length = 0;
    if (log_size < LOG_LIMIT) return;
    log_size = 0;
    if (ftruncate(log_file, 0)) fail("cannot truncate the log: %s", strerror(errno));
}

static void hash_a_token(void) {
    static const uint8_t key[32], text[] = "localhost%2Fdevices%2Fdevice-00000\n1800000000";
    uint8_t digest[32];
    unsigned length;
    HMAC(EVP_sha256(), key, sizeof key, text, sizeof text - 1, digest, &length);
}

static void on_packet(connection *c, uint8_t type, const uint8_t *body, int length) {
    static const uint8_t connack[4] = {0x20, 2, 0, 0}, pingresp[2] = {0xD0, 0};
    switch (type >> 4) {
    case 1:
        hash_a_token();
        out_add(c, connack, 4);
        break;
    case 3: {
        int topic = body[0] << 8 | body[1];
        log_add(body, length);
        if ((type >> 1) & 3) out_add(c, (uint8_t[4]){0x40, 2, body[2 + topic], body[3 + topic]}, 4);
        break;
    }
    case 8: out_add(c, (uint8_t[5]){0x90, 3, body[0], body[1], 1}, 5); break;
    case 12: out_add(c, pingresp, 2); break;
    case 14: end(c); break;
    }
}

/* Handle the whole packets among `length` bytes of scratch; returns what is left, moved to the front. */
static int parse(connection *c, int length) {
    int at = 0;
    while (!c->ended && length - at >= 2) {
        uint8_t *packet = scratch + at;
        int have = length - at, head = 1, body = 0, more = 1;
        while (more && head < have && head < 5) {
            body |= (packet[head] & 127) << (7 * (head - 1));
            more = packet[head++] & 128;
        }
        if ((more && head == 5) || body > SCRATCH - 5) end(c);
        if (more || have < head + body) break;
        on_packet(c, packet[0], packet + head, body);
        at += head + body;
    }
    memmove(scratch, scratch + at, (size_t)(length - at));
    return length - at;
}

static void on_event(connection *c, uint32_t events) {
    if (c->ended) return;
    if (!c->greeted) {
        int result = SSL_do_handshake(c->ssl);
        if (result != 1) {
            if (!wants_more(c->ssl, result)) end(c);
            return;
        }
        c->greeted = 1;
    }
    if (events & EPOLLOUT) flush(c);
    for (int reads = 0; reads < READS_A_ROUND && !c->ended; reads++) {
        memcpy(scratch, c->in ? c->in : scratch, (size_t)c->in_length);
        int got = SSL_read(c->ssl, scratch + c->in_length, SCRATCH - c->in_length);
        if (got <= 0) {
            if (!wants_more(c->ssl, got)) end(c);
            break;
        }
        int left = parse(c, c->in_length + got);
        if (c->ended) return;
        free(c->in);
        c->in = left ? memcpy(malloc((size_t)left), scratch, (size_t)left) : NULL;
        c->in_length = left;
        if (!SSL_has_pending(c->ssl)) break;
    }
}

static void accept_some(int listener, SSL_CTX *tls) {
    for (int i = 0; i < ACCEPTS_A_ROUND; i++) {
        int one = 1, fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0) break;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        connection *c = calloc(1, sizeof *c);
        c->fd = fd;
        c->ssl = SSL_new(tls);
        SSL_set_fd(c->ssl, fd);
        SSL_set_accept_state(c->ssl);
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
        epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
    }
}

static void end_round(void) {
    if (batch_length) log_commit();
    for (int i = 0; i < dirty_count; i++) {
        connection *c = dirty[i];
        if (!c->ended && !c->wants_out) flush(c);
        if (!c->ended) c->listed = 0;
    }
    for (int i = 0; i < dirty_count; i++) {
        connection *c = dirty[i];
        if (!c->ended) continue;
        free(c->in);
        free(c->out);
        free(c);
    }
    dirty_count = 0;
}

static SSL_CTX *server_context(const char *certificate, const char *key) {
    SSL_CTX *tls = SSL_CTX_new(TLS_server_method());
    SSL_CTX_set_min_proto_version(tls, TLS1_2_VERSION);
    if (SSL_CTX_use_certificate_chain_file(tls, certificate) != 1 ||
        SSL_CTX_use_PrivateKey_file(tls, key, SSL_FILETYPE_PEM) != 1)
        fail("cannot read the certificate %s or its key %s", certificate, key);
    SSL_CTX_set_session_cache_mode(tls, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_num_tickets(tls, 0);
    SSL_CTX_set_mode(tls, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER | SSL_MODE_RELEASE_BUFFERS);
    SSL_CTX_set_read_ahead(tls, 1);
    return tls;
}

static int listen_on(int port) {
    int one = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 4096))
        fail("cannot listen on port %d: %s", port, strerror(errno));
    return listener;
}

int main(int argc, char **argv) {
    if (argc != 4 && argc != 5) fail("usage: minsrv PORT CERTIFICATE KEY [LOG]");
    signal(SIGPIPE, SIG_IGN);
    raise_file_limit();
    if (argc == 5) log_file = open(argv[4], O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0600);
    if (argc == 5 && log_file < 0) fail("cannot open the log %s: %s", argv[4], strerror(errno));
    SSL_CTX *tls = server_context(argv[2], argv[3]);
    int listener = listen_on(atoi(argv[1]));
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL}, events[256];
    epoll = epoll_create1(EPOLL_CLOEXEC);
    epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event);
    for (;;) {
        int count = epoll_wait(epoll, events, 256, -1);
        for (int i = 0; i < count; i++) {
            if (events[i].data.ptr) on_event(events[i].data.ptr, events[i].events);
            else accept_some(listener, tls);
        }
        end_round();
    }
}
