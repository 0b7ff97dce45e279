/* Many AMQP 1.0 connections over TLS on one epoll: log in, attach, send unsettled with a window, receive, count. */
#ifndef BENCH_AMQP_CLIENT_H
#define BENCH_AMQP_CLIENT_H

#include "amqp.h"
#include "stream.h"

enum state { DEAD, DIALLING, LOGIN, OPENING, TOKENS, ATTACHING, READY, LEAVING };

typedef struct session session;
typedef struct connection connection;

/* A sending link of one device, and with `both` a receiving link beside it. */
typedef struct sender {
    session *at;
    const identity *who;
    uint32_t handle; /* of the sender; the receiver's is the next */
    uint8_t *head;   /* its TRANSFER frame up to the body, ids still to be filled in */
    int head_length;
    uint32_t delivery_count, credit_end; /* credit ends where delivery_count would pass credit_end */
    int in_flight, attached, listed;
    uint64_t left; /* messages yet to send, where that is limited */
} sender;

typedef struct flight {
    sender *of;
    uint64_t sent_at;
} flight;

struct session {
    connection *on;
    int channel, link_count;
    sender *links;
    uint32_t next_id, window_end; /* of deliveries, each one transfer; the server takes ids below window_end */
    flight *flights;              /* by delivery id, `flight_mask` + 1 of them */
    uint32_t flight_mask;
    uint32_t next_incoming, received;
    sender **of_handle; /* by the server's handle; senders and receivers */
};

struct connection {
    stream s; /* first */
    enum state state;
    int header_due, session_count, sessions_open, links_open, tokens_put, link_count;
    session *sessions;
    sender **to_send; /* links that may have become able to send */
    int to_send_count;
};

/* What every connection does; set before the first one is opened. */
typedef struct plan {
    const char *host, *hub; /* the address; the name in open and in audiences */
    const char *address;    /* the target; {id} becomes the device's id */
    const char *receive;    /* a source to receive from beside each sender, or NULL */
    int cbs;                /* SASL ANONYMOUS and a token for each device, else PLAIN */
    int port, payload, window, links_per_session;
    uint64_t messages;      /* how many each link sends; 0 = until told to stop */
} plan;

typedef struct totals {
    uint64_t acked, received, failed, sent;
    int ready, connecting;
} totals;

extern plan the_plan;
extern totals total;
extern histogram latency; /* from transfer to disposition; added to while measuring */
extern int measuring, publishing;

void clients_init(void);
void connection_make(connection *c, const identity *who, int count); /* a link for each of `count` identities */
void connection_open(connection *c);
void connection_leave(connection *c); /* says so, and is DEAD once the server has answered */
void send_all(connection *c);

#endif
