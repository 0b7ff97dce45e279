/* ehrecv: a light Event Hubs receiver that reads every partition and counts.
 *
 * One connection, as the SDKs make it: TLS, SASL ANONYMOUS, put-token on $cbs, then a settled receiver for each
 * partition, with a window of credit that is filled up at half. It reads from now on, or what a selector says (such as
 * `amqp.annotation.x-opt-offset > '-1'`: everything). It decodes no message: events and bytes are added to a mapped file
 * that the load generators read. Prints `reading` when every link is open. */
#define _GNU_SOURCE
#include "amqp.h"
#include "common.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { MAX_PARTITIONS = 64, CREDIT = 20000, MAX_FRAME = 1 << 20, WINDOW = 1 << 30, KEEP_ALIVE_MS = 15000 };
enum { CBS_SENDER, CBS_RECEIVER, FIRST_PARTITION }; /* our link handles */

typedef struct partition {
    uint32_t handle, server_handle, delivery_count, credit;
} partition;

static const char *host = "127.0.0.1", *hub_name, *entity, *group = "$Default", *token,
                  *selector = "amqp.annotation.x-opt-offset > '@latest'";
static int port, partition_count;
static partition partitions[MAX_PARTITIONS];
static uint32_t next_incoming;
static counters *count;
static SSL *ssl;
static uint8_t buffer[MAX_FRAME * 2];
static size_t buffered, taken;

/* -- the connection ------------------------------------------------------------------------------------------------ */

static void dial(void) {
    int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    inet_pton(AF_INET, host, &address.sin_addr);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (connect(fd, (struct sockaddr *)&address, sizeof address)) fail("cannot connect: %s", strerror(errno));
    ssl = SSL_new(client_context());
    SSL_set_fd(ssl, fd);
    SSL_set_tlsext_host_name(ssl, hub_name);
    if (SSL_connect(ssl) != 1) fail("the TLS handshake failed");
}

static void send_all(const void *bytes, size_t length) {
    for (size_t sent = 0; sent < length;) {
        int result = SSL_write(ssl, (const uint8_t *)bytes + sent, (int)(length - sent));
        if (result <= 0) fail("the server closed the connection while being written to");
        sent += (size_t)result;
    }
}

/* Wait for more input; an empty frame whenever nothing came for a while keeps the connection. */
static void fill(void) {
    static const uint8_t empty_frame[8] = {0, 0, 0, 8, 2, 0, 0, 0};
    memmove(buffer, buffer + taken, buffered - taken);
    buffered -= taken;
    taken = 0;
    struct pollfd poll_of = {.fd = SSL_get_fd(ssl), .events = POLLIN};
    while (!SSL_has_pending(ssl) && poll(&poll_of, 1, KEEP_ALIVE_MS) == 0) send_all(empty_frame, sizeof empty_frame);
    int got = SSL_read(ssl, buffer + buffered, (int)(sizeof buffer - buffered));
    if (got <= 0) fail("the server closed the connection");
    buffered += (size_t)got;
}

static void expect_header(const uint8_t header[8]) {
    send_all(header, 8);
    while (buffered - taken < 8) fill();
    if (memcmp(buffer + taken, header, 8)) fail("the server answered with another protocol header");
    taken += 8;
}

/* The next frame; valid until the next call. */
static frame next_frame(void) {
    for (;;) {
        size_t have = buffered - taken;
        const uint8_t *at = buffer + taken;
        size_t length = have < 8 ? 0 : (size_t)at[0] << 24 | (size_t)at[1] << 16 | (size_t)at[2] << 8 | at[3];
        if (have >= 8 && (length < 8 || length > MAX_FRAME)) fail("the server sent a frame of %zu bytes", length);
        if (have < 8 || have < length) {
            fill();
            continue;
        }
        taken += length;
        return frame_read(at, length);
    }
}

/* Show the readable parts of a refusal, such as its condition and description, and end. */
static _Noreturn void refused(const frame *f) {
    fprintf(stderr, "the server refused (performative 0x%02x): ", (unsigned)f->performative);
    for (const uint8_t *at = f->fields; at < f->payload; at++) fputc(*at >= 32 && *at < 127 ? *at : ' ', stderr);
    fail(" ");
}

static void on_frame(const frame *f);

/* Handle frames until one of the wanted kind has come. */
static frame expect(enum performative wanted) {
    for (;;) {
        frame f = next_frame();
        if (f.performative == (int)wanted) return f;
        on_frame(&f);
    }
}

/* -- links --------------------------------------------------------------------------------------------------------- */

static void write_filter(writer *w) {
    size_t map = map_begin(w);
    put_symbol(w, "apache.org:selector-filter:string");
    put_raw(w, (uint8_t[1]){0x00}, 1);
    put_symbol(w, "apache.org:selector-filter:string");
    put_string(w, selector);
    compound_end(w, map, 2);
}

/* Attach a link and return the server's answer. */
static frame attach(uint32_t handle, int receives, const char *address, int is_partition) {
    writer w = {.length = 0};
    char name[32];
    snprintf(name, sizeof name, "bench-%u", handle);
    size_t start = frame_begin(&w, 0, ATTACH), list = start + 11;
    put_string(&w, name);
    put_uint(&w, handle);
    put_bool(&w, receives);
    put_ubyte(&w, receives ? 1 : 0); /* settled by the sender */
    put_ubyte(&w, 0);
    size_t source = described(&w, 0x28);
    put_string(&w, address);
    for (int i = 0; i < 6 && is_partition; i++) put_null(&w);
    if (is_partition) write_filter(&w);
    compound_end(&w, source, is_partition ? 8 : 1);
    size_t target = described(&w, 0x29);
    put_string(&w, address);
    compound_end(&w, target, 1);
    put_null(&w);
    put_null(&w);
    if (!receives) put_uint(&w, 0);
    compound_end(&w, list, receives ? 9 : 10);
    frame_end(&w, start);
    send_all(w.bytes, w.length);
    return expect(ATTACH);
}

static void give_credit(uint32_t handle, uint32_t delivery_count) {
    writer w = {.length = 0};
    size_t start = frame_begin(&w, 0, FLOW), list = start + 11;
    put_uint(&w, next_incoming);
    put_uint(&w, WINDOW);
    put_uint(&w, 1);
    put_uint(&w, WINDOW);
    put_uint(&w, handle);
    put_uint(&w, delivery_count);
    put_uint(&w, CREDIT);
    compound_end(&w, list, 7);
    frame_end(&w, start);
    send_all(w.bytes, w.length);
}

/* -- opening ------------------------------------------------------------------------------------------------------- */

static void open_connection(void) {
    static const uint8_t sasl_header[8] = {'A', 'M', 'Q', 'P', 3, 1, 0, 0}, header[8] = {'A', 'M', 'Q', 'P', 0, 1, 0, 0};
    writer init = {.length = 0}, opening = {.length = 0};
    expect_header(sasl_header);
    expect(SASL_MECHANISMS);
    size_t start = frame_begin(&init, 1, SASL_INIT);
    put_symbol(&init, "ANONYMOUS");
    compound_end(&init, start + 11, 1);
    frame_end(&init, start);
    send_all(init.bytes, init.length);
    frame outcome = expect(SASL_OUTCOME);
    if (field_number(&outcome, 0, 1) != 0) fail("SASL ANONYMOUS was refused");
    expect_header(header);

    start = frame_begin(&opening, 0, OPEN);
    put_string(&opening, "bench-receiver");
    put_string(&opening, hub_name);
    put_uint(&opening, MAX_FRAME);
    compound_end(&opening, start + 11, 3);
    frame_end(&opening, start);
    start = frame_begin(&opening, 0, BEGIN);
    put_null(&opening);
    put_uint(&opening, 0);
    put_uint(&opening, WINDOW);
    put_uint(&opening, WINDOW);
    compound_end(&opening, start + 11, 4);
    frame_end(&opening, start);
    send_all(opening.bytes, opening.length);
    expect(OPEN);
    frame begun = expect(BEGIN);
    next_incoming = (uint32_t)field_number(&begun, 1, 0);
}

/* Send the token and wait for a status in the 200s. */
static void authorize(void) {
    writer w = {.length = 0};
    char audience[512];
    snprintf(audience, sizeof audience, "sb://%s/%s", hub_name, entity);
    attach(CBS_SENDER, 0, "$cbs", 0);
    expect(FLOW);
    attach(CBS_RECEIVER, 1, "$cbs", 0);
    give_credit(CBS_RECEIVER, 0);
    size_t start = frame_begin(&w, 0, TRANSFER);
    put_uint(&w, CBS_SENDER);
    put_uint(&w, 0);
    put_binary(&w, "1", 1);
    put_uint(&w, 0);
    put_bool(&w, 1);
    compound_end(&w, start + 11, 5);
    write_put_token(&w, audience, token);
    frame_end(&w, start);
    send_all(w.bytes, w.length);
    frame reply = expect(TRANSFER);
    next_incoming++;
    unsigned status = put_token_status(&reply);
    if (status / 100 != 2) fail("put-token was refused with %u", status);
}

static void open_partitions(void) {
    char address[600];
    for (int i = 0; i < partition_count; i++) {
        snprintf(address, sizeof address, "amqps://%s/%s/ConsumerGroups/%s/Partitions/%d", hub_name, entity, group, i);
        frame answer = attach(FIRST_PARTITION + (uint32_t)i, 1, address, 1);
        partitions[i] = (partition){.handle = FIRST_PARTITION + (uint32_t)i, .credit = CREDIT};
        partitions[i].server_handle = (uint32_t)field_number(&answer, 1, 0);
        partitions[i].delivery_count = (uint32_t)field_number(&answer, 9, 0);
        give_credit(partitions[i].handle, partitions[i].delivery_count);
    }
}

/* -- reading ------------------------------------------------------------------------------------------------------- */

static partition *partition_of(uint32_t server_handle) {
    for (int i = 0; i < partition_count; i++)
        if (partitions[i].handle && partitions[i].server_handle == server_handle) return &partitions[i];
    fail("a transfer on an unknown link");
}

static void on_transfer(const frame *f) {
    partition *p = partition_of((uint32_t)field_number(f, 0, 0));
    int more_follows = field_number(f, 5, 0) == 1;
    next_incoming++;
    count->bytes += f->payload_length;
    if (more_follows) return;
    count->events++;
    p->delivery_count++;
    if (--p->credit > CREDIT / 2) return;
    p->credit = CREDIT;
    give_credit(p->handle, p->delivery_count);
}

static void on_frame(const frame *f) {
    if (f->performative == TRANSFER) on_transfer(f);
    if (f->performative == DETACH || f->performative == END || f->performative == CLOSE) refused(f);
}

int main(int argc, char **argv) {
    signal(SIGPIPE, SIG_IGN);
    if (argc != 7 && argc != 8) fail("usage: ehrecv PORT HUB_HOST ENTITY PARTITIONS TOKEN COUNTERS [SELECTOR]");
    require_loopback(host);
    port = atoi(argv[1]), hub_name = argv[2], entity = argv[3], partition_count = atoi(argv[4]), token = argv[5];
    count = map_counters(argv[6]);
    if (argc == 8) selector = argv[7];
    if (partition_count < 1 || partition_count > MAX_PARTITIONS) fail("1 to %d partitions", MAX_PARTITIONS);
    dial();
    open_connection();
    authorize();
    open_partitions();
    puts("reading");
    fflush(stdout);
    for (;;) {
        frame f = next_frame();
        on_frame(&f);
    }
}
