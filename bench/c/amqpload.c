/* amqpload: AMQP 1.0 load on one server, and what it costs that server.
 *
 * pub      N connections with L links each; each link has a window of unsettled messages, closed loop. Ends only when
 *          all sent is settled as accepted, so that a reader can be compared with it.
 * gateway  the same with a receiver beside each sender: all devices log in, each sends -m messages, then one message
 *          to each device is waited for, accepted and settled. A JSON object for each of the three.
 *
 * CPU is that of the process trees under the -P pids, inside the measured window. JSON goes to standard output; a run
 * that cannot be trusted has an "error" in it and ends with 1. Anything but `accepted` ends the run. */
#define _GNU_SOURCE
#include "amqp_client.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *mode = "pub", *label = "", *identities_file, *counters_file;
static int connections = 1, links = 1, at_once = 64;
static double duration = 3, warm_up = 1;
static roots server;
static counters *reader;

typedef struct snapshot {
    uint64_t at, acked, read;
    usage server;
    double own_cpu;
} snapshot;

static snapshot take_snapshot(void) {
    return (snapshot){now_ns(), total.acked, reader ? reader->events : 0, usage_of_tree(&server), own_cpu_s()};
}

static int stop_with(const char *error) {
    printf("{\"label\": \"%s\", \"mode\": \"%s\", \"error\": \"%s\", \"ready\": %d, \"failed\": %lu}\n", label, mode, error,
           total.ready, total.failed);
    return 1;
}

static double since(uint64_t start) { return (double)(now_ns() - start) / 1e9; }

/* Open every connection with all its links; gives up after 30 seconds without one more. */
static int connect_all(connection *list, const identities *who) {
    int next = 0, seen = -1;
    uint64_t progress = now_ns();
    if (who->count < connections * links) fail("%s holds %d identities, fewer than links", identities_file, who->count);
    while (total.ready < connections && !total.failed && since(progress) < 30) {
        if (total.ready != seen) seen = total.ready, progress = now_ns();
        while (next < connections && total.connecting < at_once) {
            connection_make(&list[next], &who->list[next * links], links);
            connection_open(&list[next++]);
        }
        streams_wait(0.05);
    }
    return total.ready == connections;
}

static void send_from_all(connection *list) {
    publishing = 1;
    for (int i = 0; i < connections; i++) send_all(&list[i]);
}

/* Wait until what was sent is settled and, with a reader, read. */
static void drain(void) {
    uint64_t start = now_ns();
    publishing = 0;
    while (since(start) < 10 && (total.acked < total.sent || (reader && reader->events < total.acked))) streams_wait(0.01);
}

static void leave_all(connection *list) {
    for (int i = 0; i < connections; i++) connection_leave(&list[i]);
    for (uint64_t start = now_ns(); total.ready && since(start) < 20;) streams_wait(0.05);
}

static int publish_load(connection *list, const identities *who) {
    if (!connect_all(list, who)) return stop_with("not all connections were accepted");
    if (reader) reader->events = 0;
    uint64_t start = now_ns();
    snapshot before = {0};
    send_from_all(list);
    while (since(start) < warm_up + duration && !total.failed) {
        if (!measuring && since(start) >= warm_up) measuring = 1, before = take_snapshot();
        streams_wait(0.05);
    }
    snapshot after = take_snapshot();
    measuring = 0;
    drain();
    double seconds = (double)(after.at - before.at) / 1e9, acked = (double)(after.acked - before.acked);
    double cpu = after.server.cpu_s - before.server.cpu_s;
    if (total.failed) return stop_with("connections were lost");
    if (acked == 0) return stop_with("nothing was accepted");
    printf("{\"label\": \"%s\", \"mode\": \"pub\", \"connections\": %d, \"links\": %d, \"payload\": %d, \"window\": %d, "
           "\"seconds\": %.2f, \"acks_per_s\": %.1f, \"delivered_per_s\": %.1f, \"server_us_per_message\": %.3f, "
           "\"server_busy\": %.3f, \"client_us_per_message\": %.3f, \"client_busy\": %.3f, \"p50_ms\": %.3f, "
           "\"p99_ms\": %.3f, \"rss_mib\": %.1f, \"sent_total\": %lu, \"acked_total\": %lu, \"delivered_total\": %lu}\n",
           label, connections, links, the_plan.payload, the_plan.window, seconds, acked / seconds,
           (double)(after.read - before.read) / seconds, cpu / acked * 1e6, cpu / seconds,
           (after.own_cpu - before.own_cpu) / acked * 1e6, (after.own_cpu - before.own_cpu) / seconds,
           histogram_ms(&latency, .5), histogram_ms(&latency, .99), after.server.rss_kib / 1024, total.sent, total.acked,
           reader ? reader->events : 0);
    leave_all(list);
    return 0;
}

static void tell_phase(const char *phase, snapshot before, uint64_t count) {
    snapshot now = take_snapshot();
    double cpu = now.server.cpu_s - before.server.cpu_s, seconds = (double)(now.at - before.at) / 1e9;
    printf("{\"label\": \"%s\", \"mode\": \"gateway\", \"phase\": \"%s\", \"count\": %lu, \"seconds\": %.3f, "
           "\"server_us_per_message\": %.2f, \"server_busy\": %.3f, \"rss_mib\": %.1f}\n",
           label, phase, count, seconds, cpu / (double)count * 1e6, cpu / seconds, now.server.rss_kib / 1024);
    fflush(stdout);
}

static int gateway(connection *list, const identities *who) {
    uint64_t devices = (uint64_t)(connections * links), wanted = devices * the_plan.messages;
    snapshot before = take_snapshot();
    if (!connect_all(list, who)) return stop_with("not all connections were accepted");
    tell_phase("login", before, devices);
    if (reader) reader->events = 0;
    before = take_snapshot();
    send_from_all(list);
    for (uint64_t start = now_ns(); since(start) < 60 && total.acked < wanted && !total.failed;) streams_wait(0.05);
    if (total.acked < wanted) return stop_with("not all messages were accepted");
    tell_phase("telemetry", before, wanted);
    drain();
    if (reader && reader->events != wanted) return stop_with("not every message was read exactly once");
    before = take_snapshot();
    for (uint64_t start = now_ns(); since(start) < 60 && total.received < devices && !total.failed;) streams_wait(0.05);
    if (total.received < devices) return stop_with("not every device got its message");
    tell_phase("devicebound", before, devices);
    for (uint64_t start = now_ns(); since(start) < 0.5;) streams_wait(0.05);
    if (total.received != devices || total.failed) return stop_with("a message came twice, or the connection was lost");
    leave_all(list);
    return 0;
}

static _Noreturn void usage_error(void) {
    fail("usage: amqpload -m pub|gateway -p PORT -I IDENTITIES -t ADDRESS [-h HOST] [-H HUB_NAME] [-n CONNECTIONS]\n"
         "  [-l LINKS_OF_EACH] [-k LINKS_OF_A_SESSION] [-c AT_ONCE] [-C (tokens by $cbs)] [-s PAYLOAD] [-w WINDOW]\n"
         "  [-r SOURCE_ADDRESS] [-N MESSAGES_OF_EACH] [-d SECONDS] [-W WARM_UP_SECONDS] [-R COUNTERS_OF_A_READER]\n"
         "  [-P SERVER_PID]... [-L LABEL]\n"
         "IDENTITIES holds lines of device id, user name and password, tabs between; {id} in addresses is the device id.");
}

static void read_options(int argc, char **argv) {
    the_plan = (plan){.host = "127.0.0.1", .hub = "127.0.0.1", .payload = 256, .window = 1, .links_per_session = 100};
    for (int option; (option = getopt(argc, argv, "m:h:H:p:I:n:l:k:c:Cs:w:t:r:N:d:W:R:P:L:")) != -1;) switch (option) {
        case 'm': mode = optarg; break;
        case 'h': the_plan.host = optarg; break;
        case 'H': the_plan.hub = optarg; break;
        case 'p': the_plan.port = atoi(optarg); break;
        case 'I': identities_file = optarg; break;
        case 'n': connections = atoi(optarg); break;
        case 'l': links = atoi(optarg); break;
        case 'k': the_plan.links_per_session = atoi(optarg); break;
        case 'c': at_once = atoi(optarg); break;
        case 'C': the_plan.cbs = 1; break;
        case 's': the_plan.payload = atoi(optarg); break;
        case 'w': the_plan.window = atoi(optarg); break;
        case 't': the_plan.address = optarg; break;
        case 'r': the_plan.receive = optarg; break;
        case 'N': the_plan.messages = strtoull(optarg, NULL, 10); break;
        case 'd': duration = atof(optarg); break;
        case 'W': warm_up = atof(optarg); break;
        case 'R': counters_file = optarg; break;
        case 'P':
            if (server.count == MAX_ROOTS) fail("too many -P");
            server.pid[server.count++] = atoi(optarg);
            break;
        case 'L': label = optarg; break;
        default: usage_error();
        }
    if (!identities_file || !the_plan.address || !the_plan.port || the_plan.window < 1 || links < 1) usage_error();
    if (the_plan.links_per_session < 1 || the_plan.payload < 1 || the_plan.payload > 60000) usage_error();
}

int main(int argc, char **argv) {
    read_options(argc, argv);
    require_loopback(the_plan.host);
    signal(SIGPIPE, SIG_IGN);
    raise_file_limit();
    identities who = read_identities(identities_file);
    if (counters_file) reader = map_counters(counters_file);
    clients_init();
    connection *list = calloc((size_t)connections, sizeof *list);
    if (!strcmp(mode, "pub")) return publish_load(list, &who);
    if (!strcmp(mode, "gateway") && the_plan.receive && the_plan.messages) return gateway(list, &who);
    usage_error();
}
