/* What the bench programs share: clocks, a latency histogram, CPU and memory of a process tree, TLS, counters. */
#ifndef BENCH_COMMON_H
#define BENCH_COMMON_H

#include <openssl/ssl.h>
#include <stdint.h>
#include <sys/types.h>

enum { MAX_ROOTS = 16, HISTOGRAM_BUCKETS = 64 * 40 };

/* Microseconds, 64 buckets for each power of two: values are off by at most 1.6 %. */
typedef struct histogram {
    uint64_t bucket[HISTOGRAM_BUCKETS];
    uint64_t count;
} histogram;

/* A process tree: the processes under the roots, and the roots themselves. */
typedef struct roots {
    pid_t pid[MAX_ROOTS];
    int count;
} roots;

typedef struct usage {
    double cpu_s;   /* user and system, of all threads, ended ones included; nanosecond clock of each process */
    double cpu_of[MAX_ROOTS]; /* the same by root */
    double rss_kib; /* resident, shared pages included */
} usage;

/* Two numbers that the reader of a log keeps in a file mapped by it and by the load generator. */
typedef struct counters {
    volatile uint64_t events;
    volatile uint64_t bytes;
} counters;

/* Accounts to log in with. */
typedef struct identity {
    char *client, *user, *password;
    X509 *certificate; /* of the client's handshake, with its key; NULL: it logs in with the password */
    EVP_PKEY *key;
} identity;

typedef struct identities {
    identity *list;
    int count;
} identities;

uint64_t now_ns(void);
void histogram_add(histogram *h, uint64_t microseconds);
double histogram_ms(const histogram *h, double quantile);

usage usage_of_tree(const roots *r);
double own_cpu_s(void);

/* From a file with a line for each: client id, user name and password, tabs between. */
identities read_identities(const char *path);
/* PEM, a certificate and a private key for each identity, in their order. */
void read_certificates(identities *all, const char *path);

void raise_file_limit(void);
counters *map_counters(const char *path);

/* A client context without verification: loopback only, and what is measured is the server. */
SSL_CTX *client_context(void);
void require_loopback(const char *host);
_Noreturn void fail(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
