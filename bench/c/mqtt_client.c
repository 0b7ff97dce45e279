#define _GNU_SOURCE
#include "mqtt_client.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

plan the_plan;
totals total;
histogram latency;
int measuring, publishing;

static uint8_t *payload;

static const stream_user user;

void clients_init(void) {
    streams_init(&user);
    payload = malloc((size_t)the_plan.payload + 1);
    memset(payload, 'x', (size_t)the_plan.payload);
}

connection *connections_new(int count) {
    connection *list = calloc((size_t)count, sizeof *list);
    size_t window = (size_t)(the_plan.window > 0 ? the_plan.window : 1);
    for (int i = 0; i < count; i++) {
        list[i].s.fd = -1;
        list[i].sent_at = calloc(window, sizeof(uint64_t));
        list[i].free_ids = calloc(window, sizeof(uint16_t));
    }
    return list;
}

static void end(connection *c, int failed) {
    if (c->state == DEAD) return;
    if (c->state == READY) total.ready--;
    else total.connecting--;
    total.failed += (uint64_t)failed;
    c->state = DEAD;
    stream_close(&c->s);
}

static void on_lost(stream *s) { end((connection *)s, 1); }

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
    stream_add(&c->s, head, 1 + put_length(head + 1, length));
    stream_add(&c->s, body, length);
}

static void send_connect(connection *c) {
    uint8_t body[4096];
    int n = put_string(body, "MQTT");
    body[n++] = 4;
    body[n++] = c->who->key ? 0x82 : 0xC2; /* user name, clean session, and a password where there is no certificate */
    body[n++] = (uint8_t)(the_plan.keep_alive >> 8);
    body[n++] = (uint8_t)the_plan.keep_alive;
    n += put_string(body + n, c->who->client);
    n += put_string(body + n, c->who->user);
    if (!c->who->key) n += put_string(body + n, c->who->password);
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
    stream_add(&c->s, c->head, c->head_length);
    stream_add(&c->s, packet_id, 2);
    stream_add(&c->s, payload, the_plan.payload);
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
    if (c->s.out_length) stream_flush(&c->s);
}

void connection_open(connection *c, const identity *who) {
    c->who = who;
    c->state = DIALLING;
    c->sent = c->due = 0;
    c->free_count = 0;
    for (int slot = the_plan.window - 1; slot >= 0; slot--) c->free_ids[c->free_count++] = (uint16_t)slot;
    c->started = now_ns();
    total.connecting++;
    c->s.certificate = who->certificate;
    c->s.key = who->key;
    stream_open(&c->s, the_plan.host, the_plan.port);
}

void connection_leave(connection *c) {
    static const uint8_t disconnect[2] = {0xE0, 0};
    if (c->state != READY) return;
    stream_add(&c->s, disconnect, 2);
    stream_flush(&c->s);
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
    stream_add(&c->s, puback, 4);
}

static void on_packet(connection *c, uint8_t type, const uint8_t *body, int length) {
    switch (type >> 4) {
    case 2:
        if (c->state != CONNACK || length < 2 || body[1] != 0) end(c, 1);
        else if (c->subscribes) c->state = SUBACK, send_subscribe(c), stream_flush(&c->s);
        else is_ready(c);
        break;
    case 3: on_publish(c, type, body); break;
    case 4: on_puback(c, body); break;
    case 9:
        if (c->state == SUBACK) is_ready(c);
        break;
    }
}

static void on_opened(stream *s) {
    ((connection *)s)->state = CONNACK;
    send_connect((connection *)s);
}

static int on_received(stream *s) {
    connection *c = (connection *)s;
    int at = 0;
    while (c->state != DEAD && s->in_length - at >= 2) {
        const uint8_t *packet = s->in + at;
        int have = s->in_length - at, head = 1, length = 0, more = 1;
        while (more && head < have && head < 5) {
            length |= (packet[head] & 127) << (7 * (head - 1));
            more = packet[head++] & 128;
        }
        if (more && head == 5) end(c, 1);
        if (more || have < head + length) break;
        on_packet(c, packet[0], packet + head, length);
        at += head + length;
    }
    return at;
}

static void on_rested(stream *s) { publish_all((connection *)s); }

static const stream_user user = {on_opened, on_received, on_rested, on_lost};
