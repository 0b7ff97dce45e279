#define _GNU_SOURCE
#include "amqp_client.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CBS_SENDER, CBS_RECEIVER, FIRST_HANDLE, MAX_HANDLE = 4096, MAX_FRAME = 1 << 16, WINDOW = 1 << 30 };
enum { CREDIT = 50, LEAST_FLIGHTS = 4096 };

static const uint8_t sasl_header[8] = {'A', 'M', 'Q', 'P', 3, 1, 0, 0}, amqp_header[8] = {'A', 'M', 'Q', 'P', 0, 1, 0, 0};

plan the_plan;
totals total;
histogram latency;
int measuring, publishing;

static const stream_user user;
static uint8_t *body;
static int body_length;

/* The data section, the same for all. */
void clients_init(void) {
    int length = the_plan.payload;
    uint8_t head[8] = {0x00, 0x53, 0x75, 0xB0, (uint8_t)(length >> 24), (uint8_t)(length >> 16), (uint8_t)(length >> 8),
                       (uint8_t)length};
    streams_init(&user);
    if (length < 256) head[3] = 0xA0, head[4] = (uint8_t)length;
    int head_length = length < 256 ? 5 : 8;
    body_length = head_length + length;
    body = malloc((size_t)body_length);
    memcpy(body, head, (size_t)head_length);
    memset(body + head_length, 'x', (size_t)length);
}

static void end(connection *c, int failed) {
    if (c->state == DEAD) return;
    if (c->state >= READY) total.ready--;
    else total.connecting--;
    total.failed += (uint64_t)failed;
    c->state = DEAD;
    stream_close(&c->s);
}

static void on_lost(stream *s) { end((connection *)s, ((connection *)s)->state != LEAVING); }

/* Show the readable parts of a refusal, such as its condition and description, and end the program. */
static _Noreturn void refused(const char *what, const frame *f) {
    fprintf(stderr, "%s (performative 0x%02x): ", what, (unsigned)f->performative);
    for (const uint8_t *at = f->fields; at < f->payload; at++) fputc(*at >= 32 && *at < 127 ? *at : ' ', stderr);
    fail(" ");
}

/* -- making ---------------------------------------------------------------------------------------------------------*/

void connection_make(connection *c, const identity *who, int count) {
    int per_session = the_plan.links_per_session;
    c->s.fd = -1;
    c->link_count = count;
    c->session_count = (count + per_session - 1) / per_session;
    c->sessions = calloc((size_t)c->session_count, sizeof *c->sessions);
    c->to_send = calloc((size_t)count, sizeof *c->to_send);
    for (int i = 0; i < c->session_count; i++) {
        session *s = &c->sessions[i];
        int left = count - i * per_session;
        uint32_t flights = the_plan.messages ? 64 : LEAST_FLIGHTS; /* sessions of one link come by the thousand */
        *s = (session){.on = c, .channel = i, .link_count = left < per_session ? left : per_session};
        while (flights < 2u * (uint32_t)(s->link_count * the_plan.window)) flights *= 2;
        s->flight_mask = flights - 1;
        s->flights = calloc(flights, sizeof *s->flights);
        s->of_handle = calloc(MAX_HANDLE, sizeof *s->of_handle);
        s->links = calloc((size_t)s->link_count, sizeof *s->links);
        for (int n = 0; n < s->link_count; n++)
            s->links[n] = (sender){.at = s, .who = who++, .handle = FIRST_HANDLE + 2u * (uint32_t)n, .left = the_plan.messages};
    }
}

void connection_open(connection *c) {
    c->state = DIALLING;
    total.connecting++;
    stream_open(&c->s, the_plan.host, the_plan.port);
}

static void write_frame(connection *c, writer *w, size_t start, int fields, int channel) {
    compound_end(w, start + 11, fields);
    frame_end(w, start);
    w->bytes[start + 6] = (uint8_t)(channel >> 8);
    w->bytes[start + 7] = (uint8_t)channel;
    stream_add(&c->s, w->bytes + start, (int)(w->length - start));
}

void connection_leave(connection *c) {
    writer w = {.length = 0};
    if (c->state != READY) return;
    write_frame(c, &w, frame_begin(&w, 0, CLOSE), 0, 0);
    c->state = LEAVING;
    stream_flush(&c->s);
}

/* -- sending --------------------------------------------------------------------------------------------------------*/

static void list(sender *l) {
    connection *c = l->at->on;
    if (l->listed) return;
    l->listed = 1;
    c->to_send[c->to_send_count++] = l;
}

static int with_id(char *to, size_t size, const char *pattern, const char *id) {
    const char *mark = strstr(pattern, "{id}");
    int before = mark ? (int)(mark - pattern) : (int)strlen(pattern);
    return snprintf(to, size, "%.*s%s%s", before, pattern, mark ? id : "", mark ? mark + 4 : "");
}

static int add_small(uint8_t *to, uint8_t code, const char *text) {
    size_t length = strlen(text);
    to[0] = code;
    to[1] = (uint8_t)length;
    memcpy(to + 2, text, length);
    return 2 + (int)length;
}

/* Begin a list or map of the short form as clients' libraries write it; `small_end` sets size and count. */
static int small_begin(uint8_t *to, uint8_t section, uint8_t code) {
    memcpy(to, (uint8_t[6]){0x00, 0x53, section, code, 0, 0}, 6);
    return 6;
}

static void small_end(uint8_t *start, int length, int count) {
    start[4] = (uint8_t)(length - 5);
    start[5] = (uint8_t)count;
}

/* A transfer of one whole message: the delivery id stands at 5 + handle, the tag 6 behind it. */
static void make_head(sender *l) {
    uint8_t head[1024];
    int n = 8, start = n, more;
    memset(head, 0, 8);
    head[4] = 2;
    head[6] = (uint8_t)(l->at->channel >> 8), head[7] = (uint8_t)l->at->channel;
    n += small_begin(head + n, TRANSFER, 0xC0);
    memcpy(head + n, (uint8_t[5]){0x70, 0, 0, (uint8_t)(l->handle >> 8), (uint8_t)l->handle}, 5);
    memcpy(head + n + 5, (uint8_t[5]){0x70}, 5);
    memcpy(head + n + 10, (uint8_t[8]){0xA0, 4, 0, 0, 0, 0, 0x43, 0x42}, 8);
    n += 18;
    small_end(head + start, n - start, 5);
    start = n;
    n += small_begin(head + n, 0x73, 0xC0);
    for (int i = 0; i < 6; i++) head[n++] = 0x40;
    n += add_small(head + n, 0xA3, "application/json");
    n += add_small(head + n, 0xA3, "utf-8");
    small_end(head + start, n - start, 8);
    start = n;
    n += small_begin(head + n, 0x74, 0xC1);
    n += add_small(head + n, 0xA1, "level");
    n += add_small(head + n, 0xA1, "normal");
    n += add_small(head + n, 0xA1, "run");
    n += add_small(head + n, 0xA1, "bench");
    small_end(head + start, n - start, 4);
    more = n + body_length;
    head[0] = (uint8_t)(more >> 24), head[1] = (uint8_t)(more >> 16), head[2] = (uint8_t)(more >> 8), head[3] = (uint8_t)more;
    l->head = malloc((size_t)n);
    memcpy(l->head, head, (size_t)n);
    l->head_length = n;
}

enum { ID_AT = 8 + 6 + 5 + 1, TAG_AT = ID_AT + 4 + 2 };

static void put_id(uint8_t *to, uint32_t id) {
    for (int i = 0; i < 4; i++) to[i] = (uint8_t)(id >> (24 - 8 * i));
}

static int may_send(const sender *l) {
    return l->in_flight < the_plan.window && l->delivery_count != l->credit_end && l->at->next_id != l->at->window_end &&
           (l->left || !the_plan.messages);
}

/* Send one message of the link; 0 when an older delivery of the session still stands in its place. */
static int send_one(sender *l, uint64_t now) {
    session *s = l->at;
    flight *f = &s->flights[s->next_id & s->flight_mask];
    if (f->of) return 0;
    uint8_t *to = stream_room(&s->on->s, l->head_length + body_length);
    memcpy(to, l->head, (size_t)l->head_length);
    put_id(to + ID_AT, s->next_id);
    put_id(to + TAG_AT, s->next_id);
    memcpy(to + l->head_length, body, (size_t)body_length);
    *f = (flight){l, now};
    s->next_id++;
    l->delivery_count++;
    l->in_flight++;
    if (l->left) l->left--;
    total.sent++;
    return 1;
}

void send_all(connection *c) {
    if (c->state != READY || !publishing) return;
    uint64_t now = now_ns();
    int count = c->to_send_count;
    c->to_send_count = 0;
    for (int i = 0; i < count; i++) {
        sender *l = c->to_send[i];
        l->listed = 0;
        while (may_send(l) && send_one(l, now)) {}
        if (may_send(l)) list(l);
    }
    if (c->s.out_length) stream_flush(&c->s);
}

/* -- opening --------------------------------------------------------------------------------------------------------*/

static void send_login(connection *c) {
    writer w = {.length = 0};
    const identity *who = c->sessions[0].links[0].who;
    size_t start = frame_begin(&w, 1, SASL_INIT);
    put_symbol(&w, the_plan.cbs ? "ANONYMOUS" : "PLAIN");
    if (!the_plan.cbs) {
        char response[2048];
        int length = snprintf(response, sizeof response, "%c%s%c%s", 0, who->user, 0, who->password);
        put_binary(&w, response, (size_t)length);
        put_string(&w, the_plan.hub);
    }
    write_frame(c, &w, start, the_plan.cbs ? 1 : 3, 0);
}

static void begin_sessions(connection *c, int from, int to) {
    for (int i = from; i < to; i++) {
        writer w = {.length = 0};
        size_t start = frame_begin(&w, 0, BEGIN);
        put_null(&w);
        put_uint(&w, 0);
        put_uint(&w, WINDOW);
        put_uint(&w, WINDOW);
        put_uint(&w, MAX_HANDLE - 1);
        write_frame(c, &w, start, 5, i);
    }
}

static void send_open(connection *c) {
    writer w = {.length = 0};
    char name[64];
    snprintf(name, sizeof name, "bench-%s", c->sessions[0].links[0].who->client);
    size_t start = frame_begin(&w, 0, OPEN);
    put_string(&w, name);
    put_string(&w, the_plan.hub);
    put_uint(&w, MAX_FRAME);
    write_frame(c, &w, start, 3, 0);
    begin_sessions(c, 0, 1);
}

static void send_attach(session *s, uint32_t handle, int receives, const char *address) {
    writer w = {.length = 0};
    char name[128];
    /* The token links and every link of a connection have names of their own; the handle is read back from them. */
    snprintf(name, sizeof name, "bench-%d-%u", s->channel, handle);
    size_t start = frame_begin(&w, 0, ATTACH);
    put_string(&w, name);
    put_uint(&w, handle);
    put_bool(&w, receives);
    put_ubyte(&w, 0); /* unsettled */
    put_ubyte(&w, 0);
    size_t source = described(&w, 0x28);
    put_string(&w, receives ? address : "bench");
    compound_end(&w, source, 1);
    size_t target = described(&w, 0x29);
    put_string(&w, receives ? "bench" : address);
    compound_end(&w, target, 1);
    put_null(&w);
    put_null(&w);
    if (!receives) put_uint(&w, 0);
    write_frame(s->on, &w, start, receives ? 9 : 10, s->channel);
}

static void give_credit(session *s, uint32_t handle, uint32_t delivery_count) {
    writer w = {.length = 0};
    size_t start = frame_begin(&w, 0, FLOW);
    put_uint(&w, s->next_incoming);
    put_uint(&w, WINDOW);
    put_uint(&w, s->next_id);
    put_uint(&w, WINDOW);
    put_uint(&w, handle);
    put_uint(&w, delivery_count);
    put_uint(&w, CREDIT);
    write_frame(s->on, &w, start, 7, s->channel);
}

static void attach_all(connection *c) {
    char address[512];
    for (int i = 0; i < c->session_count; i++)
        for (sender *l = c->sessions[i].links; l < c->sessions[i].links + c->sessions[i].link_count; l++) {
            make_head(l);
            with_id(address, sizeof address, the_plan.address, l->who->client);
            send_attach(l->at, l->handle, 0, address);
            if (!the_plan.receive) continue;
            with_id(address, sizeof address, the_plan.receive, l->who->client);
            send_attach(l->at, l->handle + 1, 1, address);
        }
}

/* Whoever is known may have more than one session. */
static void begin_the_rest(connection *c) {
    c->state = ATTACHING;
    begin_sessions(c, 1, c->session_count);
    if (c->session_count == 1) attach_all(c);
}

/* One token after the other; the answer to the last one brings the links. */
static void send_token(connection *c) {
    session *s = &c->sessions[c->tokens_put / the_plan.links_per_session];
    const identity *who = s->links[c->tokens_put % the_plan.links_per_session].who;
    writer w = {.length = 0};
    char audience[512];
    snprintf(audience, sizeof audience, "%s/devices/%s", the_plan.hub, who->client);
    s = &c->sessions[0];
    size_t start = frame_begin(&w, 0, TRANSFER);
    put_uint(&w, CBS_SENDER);
    put_uint(&w, s->next_id++);
    put_binary(&w, "1", 1);
    put_uint(&w, 0);
    put_bool(&w, 1);
    compound_end(&w, start + 11, 5);
    write_put_token(&w, audience, who->password);
    frame_end(&w, start);
    stream_add(&c->s, w.bytes, (int)w.length);
}

static void authorize(connection *c) {
    if (!the_plan.cbs) {
        begin_the_rest(c);
        return;
    }
    c->state = TOKENS;
    send_attach(&c->sessions[0], CBS_SENDER, 0, "$cbs");
    send_attach(&c->sessions[0], CBS_RECEIVER, 1, "$cbs");
}

static void one_more(connection *c) {
    if (++c->links_open < c->link_count * (the_plan.receive ? 2 : 1)) return;
    c->state = READY;
    total.connecting--;
    total.ready++;
}

/* -- frames ---------------------------------------------------------------------------------------------------------*/

static session *session_of(connection *c, const frame *f) {
    if (f->channel >= c->session_count) fail("the server answers on a channel of its own");
    return &c->sessions[f->channel];
}

static void on_begin(connection *c, const frame *f) {
    session *s = session_of(c, f);
    if (field_number(f, 0, 1 << 16) != (uint64_t)s->channel) fail("the server answers on a channel of its own");
    s->next_incoming = (uint32_t)field_number(f, 1, 0);
    s->window_end = s->next_id + (uint32_t)field_number(f, 2, 0);
    if (++c->sessions_open == 1) authorize(c);
    else if (c->sessions_open == c->session_count) attach_all(c);
}

static void on_attach(connection *c, const frame *f) {
    session *s = session_of(c, f);
    size_t length = 0;
    char name[128] = "";
    unsigned handle = 0;
    const char *text = field_text(f, 0, &length);
    memcpy(name, text, length < sizeof name ? length : sizeof name - 1);
    if (sscanf(name, "bench-%*d-%u", &handle) != 1) fail("the server attaches a link of its own");
    uint32_t server_handle = (uint32_t)field_number(f, 1, 0);
    if (server_handle >= MAX_HANDLE) fail("the server's handle is too high");
    if (handle == CBS_RECEIVER) {
        give_credit(s, handle, 0);
        send_token(c);
    }
    if (handle < FIRST_HANDLE) return;
    sender *l = &s->links[(handle - FIRST_HANDLE) / 2];
    s->of_handle[server_handle] = l;
    if ((handle & 1) == 0) return; /* a sender is ready with its credit */
    give_credit(s, handle, (uint32_t)field_number(f, 9, 0));
    one_more(c);
}

static void on_flow(connection *c, const frame *f) {
    session *s = session_of(c, f);
    uint64_t handle = field_number(f, 4, MAX_HANDLE);
    int blocked = s->next_id == s->window_end;
    s->window_end = (uint32_t)field_number(f, 0, 0) + (uint32_t)field_number(f, 1, 0);
    sender *l = handle < MAX_HANDLE ? s->of_handle[handle] : NULL;
    for (int i = 0; i < s->link_count && (blocked || !l); i++) list(&s->links[i]);
    if (!l) return;
    l->credit_end = (uint32_t)field_number(f, 5, 0) + (uint32_t)field_number(f, 6, 0);
    list(l);
    if (l->attached) return;
    l->attached = 1;
    one_more(c);
}

static void on_disposition(connection *c, const frame *f) {
    session *s = session_of(c, f);
    uint32_t first = (uint32_t)field_number(f, 1, 0), last = (uint32_t)field_number(f, 2, first);
    if (!field_number(f, 0, 0)) return; /* of what we received: settled already */
    if (field_descriptor(f, 4) != 0x24 || !field_number(f, 3, 0)) refused("a message was not accepted", f);
    uint64_t now = now_ns();
    for (uint32_t id = first; id != last + 1; id++) {
        flight *flown = &s->flights[id & s->flight_mask];
        if (!flown->of) fail("a delivery was settled that was not under way");
        if (measuring) histogram_add(&latency, (now - flown->sent_at) / 1000);
        total.acked++;
        flown->of->in_flight--;
        list(flown->of);
        flown->of = NULL;
    }
}

static void on_token_answer(connection *c, const frame *f) {
    unsigned status = put_token_status(f);
    if (status / 100 != 2) fail("put-token was refused with %u", status);
    if (++c->tokens_put == c->link_count) begin_the_rest(c);
    else send_token(c);
    if (c->tokens_put % (CREDIT / 2) == 0) give_credit(&c->sessions[0], CBS_RECEIVER, (uint32_t)c->tokens_put);
}

/* A message for the device: accepted and settled. */
static void on_transfer(connection *c, const frame *f) {
    session *s = session_of(c, f);
    writer w = {.length = 0};
    s->next_incoming++;
    if (c->state == TOKENS) {
        on_token_answer(c, f);
        return;
    }
    size_t start = frame_begin(&w, 0, DISPOSITION);
    put_bool(&w, 1);
    put_uint(&w, (uint32_t)field_number(f, 1, 0));
    put_null(&w);
    put_bool(&w, 1);
    put_raw(&w, (uint8_t[4]){0x00, 0x53, 0x24, 0x45}, 4);
    write_frame(c, &w, start, 5, s->channel);
    total.received++;
}

static void on_outcome(connection *c, const frame *f) {
    if (field_number(f, 0, 1) != 0) {
        end(c, 1);
        return;
    }
    c->state = OPENING;
    c->header_due = 1;
    stream_add(&c->s, amqp_header, 8);
}

static void on_frame(connection *c, const frame *f) {
    if (c->state == LEAVING) {
        if (f->performative == CLOSE) end(c, 0);
        return;
    }
    switch (f->performative) {
    case SASL_MECHANISMS: send_login(c); break;
    case SASL_OUTCOME: on_outcome(c, f); break;
    case BEGIN: on_begin(c, f); break;
    case ATTACH: on_attach(c, f); break;
    case FLOW: on_flow(c, f); break;
    case TRANSFER: on_transfer(c, f); break;
    case DISPOSITION: on_disposition(c, f); break;
    case DETACH: case END: case CLOSE: refused("the server ended a link or more", f);
    }
}

static void on_opened(stream *s) {
    connection *c = (connection *)s;
    c->state = LOGIN;
    c->header_due = 1;
    stream_add(s, sasl_header, 8);
}

static void on_header(connection *c, const uint8_t *header) {
    if (memcmp(header, c->state == LOGIN ? sasl_header : amqp_header, 8)) fail("the server speaks another protocol");
    c->header_due = 0;
    if (c->state == OPENING) send_open(c);
}

static int on_received(stream *s) {
    connection *c = (connection *)s;
    int at = 0;
    while (c->state != DEAD && s->in_length - at >= 8) {
        const uint8_t *bytes = s->in + at;
        if (c->header_due) {
            on_header(c, bytes);
            at += 8;
            continue;
        }
        uint32_t length = (uint32_t)bytes[0] << 24 | (uint32_t)bytes[1] << 16 | (uint32_t)bytes[2] << 8 | bytes[3];
        if (length < 8 || length > MAX_FRAME) fail("the server sent a frame of %u bytes", length);
        if ((uint32_t)(s->in_length - at) < length) break;
        frame f = frame_read(bytes, length);
        on_frame(c, &f);
        at += (int)length;
    }
    return at;
}

static void on_rested(stream *s) { send_all((connection *)s); }

static const stream_user user = {on_opened, on_received, on_rested, on_lost};
