/* Many MQTT 3.1.1 connections over TLS on one epoll: connect, subscribe, publish QoS 1 with a window, count. */
#ifndef BENCH_MQTT_CLIENT_H
#define BENCH_MQTT_CLIENT_H

#include "stream.h"

enum state { DEAD, DIALLING, CONNACK, SUBACK, READY };

typedef struct connection {
    stream s; /* first */
    enum state state;
    int subscribes;
    const identity *who;
    uint8_t *head; /* a PUBLISH up to its packet id */
    int head_length;
    uint64_t started;    /* when the TCP connect began */
    uint64_t *sent_at;   /* by packet id - 1: when it was sent, or due in an open loop; 0 = free */
    uint16_t *free_ids;
    int free_count;
    uint64_t sent, due;  /* open loop: messages sent and due so far */
    int turn;            /* open loop: its place among the publishers */
} connection;

/* What every connection does; set before the first one is opened. */
typedef struct plan {
    const char *host, *topic, *filter; /* {id} in the topic becomes the client id */
    int port, payload, window, keep_alive;
    int hang_up;     /* leave as soon as CONNACK has arrived */
    double interval; /* open loop: nanoseconds from one message of all to the next; 0 = closed loop */
    int publishers;  /* how many share the open loop */
    uint64_t loop_start;
} plan;

typedef struct totals {
    uint64_t acked, received, connected, failed, sent;
    int ready, connecting;
} totals;

extern plan the_plan;
extern totals total;
extern histogram latency; /* of CONNACKs when hanging up, else of PUBACKs; added to while measuring */
extern int measuring, publishing;

void clients_init(void);
connection *connections_new(int count);
void connection_open(connection *c, const identity *who);
void connection_leave(connection *c);
void publish_all(connection *c);

#endif
