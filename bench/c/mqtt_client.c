#define _GNU_SOURCE
#include "mqtt_client.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#ifndef IP_BIND_ADDRESS_NO_PORT
#define IP_BIND_ADDRESS_NO_PORT 24
#endif

enum { READ_SIZE = 16384, SOURCE_ADDRESSES = 60 };

plan the_plan;
totals total;
histogram latency;
int measuring, publishing;

static SSL_CTX *tls;
static int epoll;
static uint8_t *payload;

identities read_identities(const char *path) {
    identities all = {NULL, 0};
    char *line = NULL;
    size_t size = 0;
    FILE *file = fopen(path, "r");
    if (!file) fail("cannot read the identities file %s", path);
    while (getline(&line, &size, file) > 0) {
        char *client = strtok(line, "\t\n"), *user = strtok(NULL, "\t\n"), *password = strtok(NULL, "\t\n");
        if (!password) fail("%s: a line must be client id, user name and password, tabs between", path);
        all.list = realloc(all.list, (size_t)(all.count + 1) * sizeof *all.list);
        all.list[all.count++] = (identity){strdup(client), strdup(user), strdup(password)};
    }
    free(line);
    fclose(file);
    if (!all.count) fail("%s holds no identity", path);
    return all;
}

void clients_init(void) {
    tls = client_context();
    epoll = epoll_create1(EPOLL_CLOEXEC);
    payload = malloc((size_t)the_plan.payload + 1);
    memset(payload, 'x', (size_t)the_plan.payload);
}

connection *connections_new(int count) {
    connection *list = calloc((size_t)count, sizeof *list);
    size_t window = (size_t)(the_plan.window > 0 ? the_plan.window : 1);
    for (int i = 0; i < count; i++) {
        list[i].fd = -1;
        list[i].sent_at = calloc(window, sizeof(uint64_t));
        list[i].free_ids = calloc(window, sizeof(uint16_t));
    }
    return list;
}

static void out_add(connection *c, const void *bytes, int length) {
    if (c->out_length + length > c->out_size) {
        c->out_size = (c->out_length + length) * 2;
        c->out = realloc(c->out, (size_t)c->out_size);
    }
    memcpy(c->out + c->out_length, bytes, (size_t)length);
    c->out_length += length;
}

static void watch(connection *c, int out) {
    if (c->wants_out == out) return;
    c->wants_out = out;
    struct epoll_event event = {.events = EPOLLIN | (out ? EPOLLOUT : 0u), .data.ptr = c};
    epoll_ctl(epoll, EPOLL_CTL_MOD, c->fd, &event);
}

static void end(connection *c, int failed) {
    if (c->state == DEAD) return;
    if (c->state == READY) total.ready--;
    else total.connecting--;
    total.failed += (uint64_t)failed;
    c->state = DEAD;
    SSL_free(c->ssl);
    c->ssl = NULL;
    close(c->fd);
    c->fd = -1;
    c->in_length = c->out_length = c->out_sent = 0;
}

static void flush(connection *c) {
    while (c->out_sent < c->out_length) {
        int written = SSL_write(c->ssl, c->out + c->out_sent, c->out_length - c->out_sent);
        if (written <= 0) {
            int error = SSL_get_error(c->ssl, written);
            if (error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE) watch(c, 1);
            else end(c, 1);
            return;
        }
        c->out_sent += written;
    }
    c->out_sent = c->out_length = 0;
    watch(c, 0);
}

static int put_length(uint8_t *to, int length) {
    int used = 0;
    do {
        to[used] = (uint8_t)(length & 127);
        length >>= 7;
        if (length) to[used] |= 128;
        used++;
    } while (length);
    return used;
}

static int put_string(uint8_t *to, const char *text) {
    int length = (int)strlen(text);
    to[0] = (uint8_t)(length >> 8);
    to[1] = (uint8_t)length;
    memcpy(to + 2, text, (size_t)length);
    return length + 2;
}

static void send_packet(connection *c, uint8_t type, const uint8_t *body, int length) {
    uint8_t head[5] = {type};
    out_add(c, head, 1 + put_length(head + 1, length));
    out_add(c, body, length);
}

static void send_connect(connection *c) {
    uint8_t body[4096];
    int n = put_string(body, "MQTT");
    body[n++] = 4;
    body[n++] = 0xC2; /* user name, password, clean session */
    body[n++] = (uint8_t)(the_plan.keep_alive >> 8);
    body[n++] = (uint8_t)the_plan.keep_alive;
    n += put_string(body + n, c->who->client);
    n += put_string(body + n, c->who->user);
    n += put_string(body + n, c->who->password);
    send_packet(c, 0x10, body, n);
}

static void send_subscribe(connection *c) {
    uint8_t body[512] = {0, 1};
    int n = 2 + put_string(body + 2, the_plan.filter);
    body[n++] = 1;
    send_packet(c, 0x82, body, n);
}

static void make_head(connection *c) {
    uint8_t head[1024] = {0x32};
    char topic[900];
    const char *mark = strstr(the_plan.topic, "{id}");
    int before = mark ? (int)(mark - the_plan.topic) : (int)strlen(the_plan.topic);
    snprintf(topic, sizeof topic, "%.*s%s%s", before, the_plan.topic, mark ? c->who->client : "", mark ? mark + 4 : "");
    int n = 1 + put_length(head + 1, 2 + (int)strlen(topic) + 2 + the_plan.payload);
    n += put_string(head + n, topic);
    c->head = malloc((size_t)n);
    memcpy(c->head, head, (size_t)n);
    c->head_length = n;
}

static void publish(connection *c, uint64_t at) {
    int slot = c->free_ids[--c->free_count];
    uint8_t packet_id[2] = {(uint8_t)((slot + 1) >> 8), (uint8_t)(slot + 1)};
    if (!c->head) make_head(c);
    out_add(c, c->head, c->head_length);
    out_add(c, packet_id, 2);
    out_add(c, payload, the_plan.payload);
    c->sent_at[slot] = at;
    c->sent++;
    total.sent++;
}

/* Fill the window (closed loop), or send what is due (open loop: latency counts from the due moment). */
void publish_all(connection *c) {
    if (c->state != READY || c->subscribes || !publishing) return;
    uint64_t now = now_ns();
    while (c->free_count && (the_plan.interval == 0 || c->due > c->sent)) {
        double due = ((double)c->sent * the_plan.publishers + c->turn) * the_plan.interval;
        publish(c, the_plan.interval == 0 ? now : the_plan.loop_start + (uint64_t)due);
    }
    if (c->out_length) flush(c);
}

void connection_open(connection *c, const identity *who) {
    static unsigned next_source;
    int one = 1;
    c->who = who;
    c->state = TCP;
    c->wants_out = 1;
    c->sent = c->due = 0;
    c->free_count = 0;
    for (int slot = the_plan.window - 1; slot >= 0; slot--) c->free_ids[c->free_count++] = (uint16_t)slot;
    c->started = now_ns();
    total.connecting++;
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (c->fd < 0) fail("no more sockets: raise the limit on open files");
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    setsockopt(c->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
    /* From many loopback addresses, so that a storm does not run out of ports. */
    struct sockaddr_in address = {.sin_family = AF_INET};
    address.sin_addr.s_addr = htonl(0x7f000002u + next_source++ % SOURCE_ADDRESSES);
    bind(c->fd, (struct sockaddr *)&address, sizeof address);
    address.sin_port = htons((uint16_t)the_plan.port);
    inet_pton(AF_INET, the_plan.host, &address.sin_addr);
    if (connect(c->fd, (struct sockaddr *)&address, sizeof address) < 0 && errno != EINPROGRESS) {
        end(c, 1);
        return;
    }
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT, .data.ptr = c};
    epoll_ctl(epoll, EPOLL_CTL_ADD, c->fd, &event);
}

void connection_leave(connection *c) {
    static const uint8_t disconnect[2] = {0xE0, 0};
    if (c->state != READY) return;
    out_add(c, disconnect, 2);
    flush(c);
    if (c->ssl) SSL_set_quiet_shutdown(c->ssl, 1);
    end(c, 0);
}

static void is_ready(connection *c) {
    c->state = READY;
    total.connecting--;
    total.ready++;
    total.connected++;
    if (!the_plan.hang_up) return;
    if (measuring) histogram_add(&latency, (now_ns() - c->started) / 1000);
    connection_leave(c);
}

static void on_puback(connection *c, const uint8_t *body) {
    int slot = (body[0] << 8 | body[1]) - 1;
    if (slot < 0 || slot >= the_plan.window || !c->sent_at[slot]) return;
    if (measuring) histogram_add(&latency, (now_ns() - c->sent_at[slot]) / 1000);
    total.acked++;
    c->sent_at[slot] = 0;
    c->free_ids[c->free_count++] = (uint16_t)slot;
}

static void on_publish(connection *c, uint8_t type, const uint8_t *body) {
    total.received++;
    if (((type >> 1) & 3) == 0) return;
    int topic = body[0] << 8 | body[1];
    uint8_t puback[4] = {0x40, 2, body[2 + topic], body[3 + topic]};
    out_add(c, puback, 4);
}

static void on_packet(connection *c, uint8_t type, const uint8_t *body, int length) {
    switch (type >> 4) {
    case 2:
        if (c->state != CONNACK || length < 2 || body[1] != 0) end(c, 1);
        else if (c->subscribes) c->state = SUBACK, send_subscribe(c), flush(c);
        else is_ready(c);
        break;
    case 3: on_publish(c, type, body); break;
    case 4: on_puback(c, body); break;
    case 9:
        if (c->state == SUBACK) is_ready(c);
        break;
    }
}

static void parse(connection *c) {
    int at = 0;
    while (c->state != DEAD && c->in_length - at >= 2) {
        const uint8_t *packet = c->in + at;
        int have = c->in_length - at, head = 1, length = 0, more = 1;
        while (more && head < have && head < 5) {
            length |= (packet[head] & 127) << (7 * (head - 1));
            more = packet[head++] & 128;
        }
        if (more && head == 5) {
            end(c, 1);
            return;
        }
        if (more || have < head + length) break;
        on_packet(c, packet[0], packet + head, length);
        at += head + length;
    }
    if (c->state == DEAD || !at) return;
    memmove(c->in, c->in + at, (size_t)(c->in_length - at));
    c->in_length -= at;
}

static int wants_more(SSL *ssl, int result) {
    int error = SSL_get_error(ssl, result);
    return error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE;
}

/* Whether the connection is past its handshake. */
static int connected(connection *c, uint32_t events) {
    if (c->state == TCP) {
        int error = 0;
        socklen_t size = sizeof error;
        getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &size);
        if (error) end(c, 1);
        if (error || !(events & EPOLLOUT)) return 0;
        c->ssl = SSL_new(tls);
        SSL_set_fd(c->ssl, c->fd);
        SSL_set_connect_state(c->ssl);
        c->state = TLS;
    }
    if (c->state == TLS) {
        int result = SSL_do_handshake(c->ssl);
        if (result != 1) {
            if (wants_more(c->ssl, result)) watch(c, SSL_want_write(c->ssl));
            else end(c, 1);
            return 0;
        }
        c->state = CONNACK;
        send_connect(c);
        flush(c);
    }
    return c->state != DEAD;
}

static void on_event(connection *c, uint32_t events) {
    if (c->state == DEAD || !connected(c, events)) return;
    if (events & EPOLLOUT) flush(c);
    while (c->state != DEAD) {
        if (c->in_size - c->in_length < READ_SIZE) {
            c->in_size = c->in_length + READ_SIZE;
            c->in = realloc(c->in, (size_t)c->in_size);
        }
        int got = SSL_read(c->ssl, c->in + c->in_length, c->in_size - c->in_length);
        if (got <= 0) {
            if (!wants_more(c->ssl, got)) {
                ERR_clear_error();
                end(c, 1);
            }
            break;
        }
        c->in_length += got;
        parse(c);
        if (c->state == DEAD || !SSL_has_pending(c->ssl)) break;
    }
    if (c->state == DEAD) return;
    publish_all(c);
    if (c->out_length) flush(c);
}

void events_wait(double seconds) {
    struct epoll_event events[512];
    struct timespec limit = {.tv_sec = (time_t)seconds, .tv_nsec = (long)((seconds - (double)(time_t)seconds) * 1e9)};
    int count = epoll_pwait2(epoll, events, 512, &limit, NULL);
    for (int i = 0; i < count; i++) on_event(events[i].data.ptr, events[i].events);
}
