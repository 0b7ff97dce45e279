#define _GNU_SOURCE
#include "common.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <fcntl.h>
#include <openssl/pem.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

void fail(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    exit(1);
}

uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

void histogram_add(histogram *h, uint64_t us) {
    int index = (int)us;
    if (us >= 64) {
        int exponent = 63 - __builtin_clzll(us);
        index = (exponent - 5) * 64 + (int)((us >> (exponent - 6)) & 63);
    }
    if (index >= HISTOGRAM_BUCKETS) index = HISTOGRAM_BUCKETS - 1;
    h->bucket[index]++;
    h->count++;
}

double histogram_ms(const histogram *h, double quantile) {
    uint64_t wanted = (uint64_t)(quantile * (double)h->count), seen = 0;
    for (int i = 0; i < HISTOGRAM_BUCKETS; i++) {
        seen += h->bucket[i];
        if (seen <= wanted) continue;
        if (i < 64) return i / 1e3;
        return (double)((64ull + (unsigned)i % 64) << (i / 64 - 1)) / 1e3;
    }
    return 0;
}

typedef struct process {
    pid_t pid, parent;
} process;

static int all_processes(process *found, int max) {
    int count = 0;
    DIR *proc = opendir("/proc");
    if (!proc) fail("cannot read /proc");
    for (struct dirent *entry; count < max && (entry = readdir(proc));) {
        char path[280], text[512];
        if (entry->d_name[0] < '0' || entry->d_name[0] > '9') continue;
        snprintf(path, sizeof path, "/proc/%s/stat", entry->d_name);
        int fd = open(path, O_RDONLY);
        if (fd < 0) continue;
        ssize_t length = read(fd, text, sizeof text - 1);
        close(fd);
        if (length <= 0) continue;
        text[length] = 0;
        char *name_end = strrchr(text, ')');
        if (!name_end || sscanf(name_end + 2, "%*c %d", &found[count].parent) != 1) continue;
        found[count++].pid = atoi(entry->d_name);
    }
    closedir(proc);
    return count;
}

/* The number of the root that a process is under, -1 for none. */
static int root_of(const roots *r, const process *all, int count, pid_t pid) {
    for (int depth = 0; depth < 20 && pid > 1; depth++) {
        for (int i = 0; i < r->count; i++)
            if (r->pid[i] == pid) return i;
        pid_t parent = 0;
        for (int i = 0; i < count; i++)
            if (all[i].pid == pid) parent = all[i].parent;
        pid = parent;
    }
    return -1;
}

static double rss_kib(pid_t pid) {
    char path[64];
    long pages = 0;
    snprintf(path, sizeof path, "/proc/%d/statm", pid);
    FILE *file = fopen(path, "r");
    if (!file) return 0;
    if (fscanf(file, "%*d %ld", &pages) != 1) pages = 0;
    fclose(file);
    return (double)pages * (double)sysconf(_SC_PAGESIZE) / 1024;
}

usage usage_of_tree(const roots *r) {
    static process all[16384];
    usage sum = {0};
    if (r->count == 0) return sum;
    int count = all_processes(all, 16384);
    for (int i = 0; i < count; i++) {
        clockid_t clock;
        struct timespec t;
        int root = root_of(r, all, count, all[i].pid);
        if (root < 0) continue;
        if (clock_getcpuclockid(all[i].pid, &clock) || clock_gettime(clock, &t)) continue;
        sum.cpu_of[root] += (double)t.tv_sec + (double)t.tv_nsec / 1e9;
        sum.cpu_s += (double)t.tv_sec + (double)t.tv_nsec / 1e9;
        sum.rss_kib += rss_kib(all[i].pid);
    }
    return sum;
}

double own_cpu_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

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
        all.list[all.count++] = (identity){strdup(client), strdup(user), strdup(password), NULL, NULL};
    }
    free(line);
    fclose(file);
    if (!all.count) fail("%s holds no identity", path);
    return all;
}

void read_certificates(identities *all, const char *path) {
    FILE *file = fopen(path, "r");
    if (!file) fail("cannot read the certificates file %s", path);
    for (int i = 0; i < all->count; i++) {
        all->list[i].certificate = PEM_read_X509(file, NULL, NULL, NULL);
        all->list[i].key = PEM_read_PrivateKey(file, NULL, NULL, NULL);
        if (!all->list[i].key) fail("%s holds no certificate and key for identity %d", path, i + 1);
    }
    fclose(file);
}

void raise_file_limit(void) {
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
}

counters *map_counters(const char *path) {
    int fd = open(path, O_RDWR | O_CREAT, 0600);
    if (fd < 0 || ftruncate(fd, sizeof(counters))) fail("cannot make the counters file %s", path);
    void *memory = mmap(NULL, sizeof(counters), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (memory == MAP_FAILED) fail("cannot map the counters file %s", path);
    return memory;
}

SSL_CTX *client_context(void) {
    SSL_CTX *context = SSL_CTX_new(TLS_client_method());
    SSL_CTX_set_min_proto_version(context, TLS1_2_VERSION);
    SSL_CTX_set_verify(context, SSL_VERIFY_NONE, NULL);
    SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_mode(context,
                     SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER | SSL_MODE_RELEASE_BUFFERS);
    SSL_CTX_set_read_ahead(context, 1);
    SSL_CTX_set1_groups_list(context, "X25519:P-256");
    return context;
}

void require_loopback(const char *host) {
    if (ntohl(inet_addr(host)) >> 24 != 127) fail("%s is not a loopback address: the bench loads this machine only", host);
}
