/* mqload: MQTT load on one server, and what it costs that server.
 *
 * pub    N connections publish QoS 1, each with a window of unacknowledged messages: closed loop, or open loop at a
 *        total rate. Ends only when all sent is acknowledged, so that a reader can be compared with it.
 * storm  full TLS handshake, CONNECT, CONNACK, DISCONNECT, some at a time, no resumption.
 * idle   N connections that say nothing: the server's memory for each.
 *
 * CPU and memory are those of the process trees under the -P pids, inside the measured window. One JSON object goes
 * to standard output; a run that cannot be trusted has an "error" in it and ends with 1. */
#define _GNU_SOURCE
#include "mqtt_client.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *mode = "pub", *label = "", *identities_file, *subscribers_file, *counters_file, *certificates_file;
static int connections = 1000, at_once = 64, first;
static double duration = 3, warm_up = 1, rate;
static roots server;
static counters *reader;

typedef struct snapshot {
    uint64_t at, acked, received, connected, failed, read;
    usage server;
    double own_cpu;
} snapshot;

static snapshot take_snapshot(void) {
    return (snapshot){now_ns(),     total.acked, total.received,          total.connected,
                      total.failed, reader ? reader->events : 0, usage_of_tree(&server), own_cpu_s()};
}

static int stop_with(const char *error) {
    printf("{\"label\": \"%s\", \"mode\": \"%s\", \"error\": \"%s\", \"ready\": %d, \"failed\": %lu}\n", label, mode, error,
           total.ready, total.failed);
    return 1;
}

static double since(uint64_t start) { return (double)(now_ns() - start) / 1e9; }

static int storm(const identities *who) {
    connection *list = connections_new(at_once);
    int next = first;
    uint64_t start = now_ns();
    snapshot before = {0};
    while (since(start) < warm_up + duration) {
        if (!measuring && since(start) >= warm_up) measuring = 1, before = take_snapshot();
        for (int i = 0; i < at_once; i++)
            if (list[i].state == DEAD) connection_open(&list[i], &who->list[next++ % who->count]);
        streams_wait(0.05);
    }
    snapshot after = take_snapshot();
    double seconds = (double)(after.at - before.at) / 1e9, made = (double)(after.connected - before.connected);
    if (made == 0) return stop_with("no connection was accepted");
    printf("{\"label\": \"%s\", \"mode\": \"storm\", \"at_once\": %d, \"seconds\": %.2f, \"connects_per_s\": %.1f, "
           "\"failed\": %lu, \"server_ms_per_connect\": %.4f, \"server_busy\": %.3f, \"client_ms_per_connect\": %.4f, "
           "\"p50_ms\": %.3f, \"p99_ms\": %.3f, \"next\": %d}\n",
           label, at_once, seconds, made / seconds, after.failed - before.failed,
           (after.server.cpu_s - before.server.cpu_s) / made * 1e3, (after.server.cpu_s - before.server.cpu_s) / seconds,
           (after.own_cpu - before.own_cpu) / made * 1e3, histogram_ms(&latency, .5), histogram_ms(&latency, .99),
           next % who->count);
    return 0;
}

/* Open every connection, the subscribers first; gives up after 20 seconds without one more. */
static int connect_all(connection *list, const identities *who, const identities *subscribers) {
    int wanted = connections + subscribers->count, next = 0, seen = -1;
    uint64_t progress = now_ns();
    for (int i = 0; i < subscribers->count; i++) {
        list[connections + i].subscribes = 1;
        connection_open(&list[connections + i], &subscribers->list[i]);
    }
    while (total.ready < wanted && since(progress) < 20) {
        if (total.ready != seen) seen = total.ready, progress = now_ns();
        while ((total.ready >= subscribers->count || next) && next < connections && total.connecting < at_once) {
            list[next].turn = next;
            connection_open(&list[next], &who->list[next % who->count]);
            next++;
        }
        streams_wait(0.05);
        if (total.failed && next >= connections && total.connecting <= 0) break;
    }
    return total.ready == wanted;
}

static int idle(connection *list, const identities *who, const identities *none) {
    snapshot before = take_snapshot();
    if (!connect_all(list, who, none)) return stop_with("not all connections were accepted");
    snapshot connected = take_snapshot();
    for (uint64_t start = now_ns(); since(start) < duration;) streams_wait(0.2);
    snapshot after = take_snapshot();
    if (total.ready < connections) return stop_with("connections were lost");
    printf("{\"label\": \"%s\", \"mode\": \"idle\", \"connections\": %d, \"rss_before_kib\": %.0f, \"rss_after_kib\": %.0f, "
           "\"kib_per_connection\": %.2f, \"server_ms_per_connect\": %.4f, \"idle_busy\": %.4f}\n",
           label, connections, before.server.rss_kib, after.server.rss_kib,
           (after.server.rss_kib - before.server.rss_kib) / connections,
           (connected.server.cpu_s - before.server.cpu_s) / connections * 1e3,
           (after.server.cpu_s - connected.server.cpu_s) / duration);
    return 0;
}

static void send_what_is_due(connection *list, uint64_t *given) {
    uint64_t now = now_ns();
    while ((double)the_plan.loop_start + (double)*given * the_plan.interval <= (double)now) {
        connection *c = &list[(*given)++ % (uint64_t)connections];
        c->due++;
        publish_all(c);
    }
}

/* Wait until what was sent is acknowledged and, with a reader, read. */
static void drain(void) {
    uint64_t start = now_ns();
    publishing = 0;
    while (since(start) < 10 && (total.acked < total.sent || (reader && reader->events < total.acked))) streams_wait(0.01);
}

static int publish_load(connection *list, const identities *who, const identities *subscribers) {
    uint64_t read_before = reader ? reader->events : 0, given = 0;
    if (!connect_all(list, who, subscribers)) return stop_with("not all connections were accepted");
    if (reader) reader->events = read_before = 0;
    the_plan.interval = rate > 0 ? 1e9 / rate : 0;
    the_plan.publishers = connections;
    publishing = 1;
    uint64_t start = the_plan.loop_start = now_ns();
    for (int i = 0; i < connections && rate <= 0; i++) publish_all(&list[i]);
    snapshot before = {0};
    while (since(start) < warm_up + duration && total.ready) {
        if (!measuring && since(start) >= warm_up) measuring = 1, before = take_snapshot();
        if (rate > 0) send_what_is_due(list, &given);
        streams_wait(rate > 0 ? 0.0002 : 0.05);
    }
    snapshot after = take_snapshot();
    measuring = 0;
    drain();
    double seconds = (double)(after.at - before.at) / 1e9, acked = (double)(after.acked - before.acked);
    double cpu = after.server.cpu_s - before.server.cpu_s, delivered = (double)(after.read - before.read);
    if (!reader) delivered = (double)(after.received - before.received);
    if (total.ready < connections + subscribers->count) return stop_with("connections were lost");
    if (acked == 0) return stop_with("nothing was acknowledged");
    printf("{\"label\": \"%s\", \"mode\": \"pub\", \"connections\": %d, \"payload\": %d, \"window\": %d, \"rate\": %.0f, "
           "\"seconds\": %.2f, \"acks_per_s\": %.1f, \"delivered_per_s\": %.1f, \"server_us_per_message\": %.3f, "
           "\"server_busy\": %.3f, \"client_us_per_message\": %.3f, \"client_busy\": %.3f, \"p50_ms\": %.3f, "
           "\"p99_ms\": %.3f, \"p999_ms\": %.3f, \"rss_mib\": %.1f, \"sent_total\": %lu, \"acked_total\": %lu, "
           "\"delivered_total\": %lu, \"us_by_root\": [",
           label, connections, the_plan.payload, the_plan.window, rate, seconds, acked / seconds, delivered / seconds,
           cpu / acked * 1e6, cpu / seconds, (after.own_cpu - before.own_cpu) / acked * 1e6,
           (after.own_cpu - before.own_cpu) / seconds, histogram_ms(&latency, .5), histogram_ms(&latency, .99),
           histogram_ms(&latency, .999), after.server.rss_kib / 1024, total.sent, total.acked,
           reader ? reader->events - read_before : total.received);
    for (int i = 0; i < server.count; i++)
        printf("%s%.3f", i ? ", " : "", (after.server.cpu_of[i] - before.server.cpu_of[i]) / acked * 1e6);
    printf("]}\n");
    for (int i = 0; i < connections + subscribers->count; i++) connection_leave(&list[i]);
    return 0;
}

static void usage_error(void) {
    fail("usage: mqload -m pub|storm|idle -p PORT -I IDENTITIES [-h HOST] [-n CONNECTIONS] [-c AT_ONCE] [-s PAYLOAD]\n"
         "  [-w WINDOW] [-r TOTAL_RATE] [-t TOPIC] [-S SUBSCRIBERS] [-f FILTER] [-d SECONDS] [-W WARM_UP_SECONDS]\n"
         "  [-k KEEP_ALIVE] [-R COUNTERS_OF_A_READER] [-P SERVER_PID]... [-L LABEL]\n"
         "  [-C CERTIFICATES] [-F FIRST_IDENTITY_OF_A_STORM]\n"
         "IDENTITIES and SUBSCRIBERS hold lines of client id, user name and password, tabs between. CERTIFICATES holds, in\n"
         "PEM, a certificate and a key for each of IDENTITIES: they take the place of passwords.");
}

static void read_options(int argc, char **argv) {
    the_plan = (plan){.host = "127.0.0.1", .topic = "devices/{id}/messages/events/", .filter = "devices/#",
                      .payload = 256, .window = 1, .keep_alive = 600};
    for (int option; (option = getopt(argc, argv, "m:h:p:I:S:n:c:s:w:r:t:f:d:W:k:R:P:L:C:F:")) != -1;) switch (option) {
        case 'm': mode = optarg; break;
        case 'h': the_plan.host = optarg; break;
        case 'p': the_plan.port = atoi(optarg); break;
        case 'I': identities_file = optarg; break;
        case 'S': subscribers_file = optarg; break;
        case 'n': connections = atoi(optarg); break;
        case 'c': at_once = atoi(optarg); break;
        case 's': the_plan.payload = atoi(optarg); break;
        case 'w': the_plan.window = atoi(optarg); break;
        case 'r': rate = atof(optarg); break;
        case 't': the_plan.topic = optarg; break;
        case 'f': the_plan.filter = optarg; break;
        case 'd': duration = atof(optarg); break;
        case 'W': warm_up = atof(optarg); break;
        case 'k': the_plan.keep_alive = atoi(optarg); break;
        case 'R': counters_file = optarg; break;
        case 'P':
            if (server.count == MAX_ROOTS) fail("too many -P");
            server.pid[server.count++] = atoi(optarg);
            break;
        case 'L': label = optarg; break;
        case 'F': first = atoi(optarg); break;
        case 'C': certificates_file = optarg; break;
        default: usage_error();
        }
    if (!identities_file || !the_plan.port || the_plan.window < 1 || the_plan.window > 65535) usage_error();
}

int main(int argc, char **argv) {
    read_options(argc, argv);
    require_loopback(the_plan.host);
    signal(SIGPIPE, SIG_IGN);
    raise_file_limit();
    identities who = read_identities(identities_file), subscribers = {NULL, 0};
    if (certificates_file) read_certificates(&who, certificates_file);
    if (subscribers_file) subscribers = read_identities(subscribers_file);
    if (counters_file) reader = map_counters(counters_file);
    the_plan.hang_up = !strcmp(mode, "storm");
    clients_init();
    if (the_plan.hang_up) return storm(&who);
    connection *list = connections_new(connections + subscribers.count);
    if (!strcmp(mode, "idle")) return idle(list, &who, &subscribers);
    if (!strcmp(mode, "pub")) return publish_load(list, &who, &subscribers);
    usage_error();
}
