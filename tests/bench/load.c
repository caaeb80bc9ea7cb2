/* The clients of the bench in C: followers, and producers by POST. They cost about a microsecond
 * for each event, so that the server is what is measured.
 *
 *   load follow PORT FOLLOWERS RUNS EACH
 *       opens the streams, each of EACH runs, prints "open", and for each line on its input the events since the last
 *       one: {"events": N, "fewest": of a stream, "p50_ms": F, "p99_ms": F}. Ends with its input.
 *   load post PORT CONNECTIONS SECONDS BODY-FILE
 *       posts a body over each connection again as soon as the answer has come.
 *   load produce PORT CONNECTIONS RUNS RATE SECONDS BEFORE AFTER
 *       posts RATE events a second in all, to each run in turn, over whichever connection is free.
 *       The body is BEFORE, the time in nanoseconds of the monotonic clock, and AFTER.
 *   Both print {"requests": N, "refused": N, "late": N, "p50_ms": F, "p99_ms": F}. `late` are
 *   requests that had to wait for a free connection.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define OPENING 100         /* streams that are opened at once */
#define MAX_SAMPLES 8000000 /* latencies that are kept */

typedef struct {
    int descriptor;
    int state; /* of the search for a time, see `scan` */
    long long value;
    long events;
    int status; /* of an answer that is not whole yet, and the bytes that are missing */
    long left;
    long long began;
} Connection;

static unsigned *samples;
static long sampled;
static char buffer[1 << 20];

static long long now_ns(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000LL + time.tv_nsec;
}

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static void sample(long long nanoseconds) {
    if (sampled < MAX_SAMPLES) samples[sampled++] = nanoseconds < 0 ? 0 : nanoseconds / 1000;
}

static int compare(const void *left, const void *right) {
    unsigned a = *(const unsigned *)left, b = *(const unsigned *)right;
    return (a > b) - (a < b);
}

/* Returns a quantile of the sorted samples in milliseconds. */
static double quantile(double share) {
    return sampled ? samples[(long)((sampled - 1) * share)] / 1000.0 : -1;
}

static int connect_to(int port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    int descriptor = socket(AF_INET, SOCK_STREAM, 0), one = 1;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (descriptor < 0 || connect(descriptor, (void *)&address, sizeof address)) fail("connect");
    setsockopt(descriptor, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    return descriptor;
}

static void watch(int poll, int descriptor, int number) {
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = number};
    if (epoll_ctl(poll, EPOLL_CTL_ADD, descriptor, &event)) fail("epoll");
}

static void send_all(int descriptor, const char *data, size_t size) {
    while (size) {
        ssize_t sent = send(descriptor, data, size, MSG_NOSIGNAL);
        if (sent < 0 && errno != EAGAIN) fail("send");
        if (sent > 0) data += sent, size -= sent;
    }
}

/* Counts the events of a stream by their times, `"t":<nanoseconds>`, which pieces may cut. */
static void scan(Connection *stream, const char *data, size_t size, long long now) {
    static const char mark[] = "\"t\":";
    for (const char *at = data, *end = data + size; at < end;) {
        if (!stream->state) {
            at = memchr(at, '"', end - at);
            if (!at) return;
            stream->state = 1, at++;
        } else if (stream->state < 4) {
            if (*at == mark[stream->state]) stream->state++, at++, stream->value = 0;
            else stream->state = 0;
        } else if (*at == ' ') at++;
        else if (*at >= '0' && *at <= '9') stream->value = stream->value * 10 + *at++ - '0';
        else {
            if (stream->value) stream->events++, sample(now - stream->value);
            stream->state = 0;
        }
    }
}

/* Writes the request of a follower: one run, or EACH runs that follow one another. */
static int ask(char *request, int room, int number, int runs, int each) {
    int size = each == 1
                   ? snprintf(request, room, "GET /runs/bench-%d/events/stream", number % runs)
                   : snprintf(request, room, "GET /events/stream?run=bench-%d", number % runs);
    for (int next = 1; next < each; next++)
        size += snprintf(request + size, room - size, "&run=bench-%d", (number + next) % runs);
    return size + snprintf(request + size, room - size,
                           " HTTP/1.1\r\nHost: localhost\r\n"
                           "Accept: text/event-stream\r\nUser-Agent: bench\r\n\r\n");
}

static int follow(int port, int count, int runs, int each) {
    Connection *streams = calloc(count, sizeof *streams);
    int poll = epoll_create1(0);
    char request[8192];
    for (int first = 0; first < count; first += OPENING) {
        int last = first + OPENING < count ? first + OPENING : count;
        for (int number = first; number < last; number++) {
            int size = ask(request, sizeof request, number, runs, each);
            streams[number].descriptor = connect_to(port);
            send_all(streams[number].descriptor, request, size);
        }
        for (int number = first; number < last; number++) {
            ssize_t size = recv(streams[number].descriptor, buffer, sizeof buffer, 0);
            if (size < 12 || memcmp(buffer, "HTTP/1.1 200", 12)) fail("a stream was refused");
            scan(&streams[number], buffer, size, now_ns());
            fcntl(streams[number].descriptor, F_SETFL, O_NONBLOCK);
            watch(poll, streams[number].descriptor, number);
        }
    }
    watch(poll, 0, count);
    puts("open");
    fflush(stdout);
    struct epoll_event ready[1024];
    for (;;) {
        int found = epoll_wait(poll, ready, 1024, -1);
        for (int each = 0; each < found; each++) {
            if (ready[each].data.u32 == (unsigned)count) {
                if (read(0, buffer, 64) <= 0) return 0;
                long events = 0, fewest = -1;
                for (int number = 0; number < count; number++) {
                    long of_stream = streams[number].events;
                    events += of_stream, streams[number].events = 0;
                    if (fewest < 0 || of_stream < fewest) fewest = of_stream;
                }
                qsort(samples, sampled, sizeof *samples, compare);
                printf("{\"events\": %ld, \"fewest\": %ld, \"p50_ms\": %.3f, \"p99_ms\": %.3f}\n",
                       events, fewest, quantile(.5), quantile(.99));
                fflush(stdout);
                sampled = 0;
                continue;
            }
            Connection *stream = &streams[ready[each].data.u32];
            ssize_t size = recv(stream->descriptor, buffer, sizeof buffer, 0);
            if (size > 0) scan(stream, buffer, size, now_ns());
            else if (!size || errno != EAGAIN) epoll_ctl(poll, EPOLL_CTL_DEL, stream->descriptor, NULL);
        }
    }
}

/* Takes what has come of an answer. Returns its status once it is whole, else 0. */
static int answered(Connection *connection) {
    ssize_t size = recv(connection->descriptor, buffer, sizeof buffer - 1, 0);
    if (size < 0 && errno == EAGAIN) return 0;
    if (size <= 0) fail("the server has closed a connection");
    if (!connection->status) { /* servers send the head in one piece */
        buffer[size] = 0;
        char *end = strstr(buffer, "\r\n\r\n"), *length = strcasestr(buffer, "content-length:");
        if (!end || !length || length > end) fail("an answer without a whole head");
        connection->status = atoi(buffer + 9);
        connection->left = atol(length + 15) + (end + 4 - buffer);
    }
    connection->left -= size;
    if (connection->left > 0) return 0;
    int status = connection->status;
    connection->status = 0;
    return status;
}

static int post_to(Connection *connection, int run, const char *body, size_t size) {
    static char request[1 << 20];
    int head = snprintf(request, sizeof request,
                        "POST /runs/bench-%d/events HTTP/1.1\r\nHost: localhost\r\n"
                        "Content-Type: application/json\r\nContent-Length: %zu\r\n\r\n",
                        run, size);
    memcpy(request + head, body, size);
    send_all(connection->descriptor, request, head + size);
    return 1;
}

static int report(long requests, long refused, long late) {
    qsort(samples, sampled, sizeof *samples, compare);
    printf("{\"requests\": %ld, \"refused\": %ld, \"late\": %ld, \"p50_ms\": %.3f, \"p99_ms\": %.3f}\n",
           requests, refused, late, quantile(.5), quantile(.99));
    return 0;
}

/* A rate of 0: again as soon as the answer has come. */
static int produce(int port, int count, int runs, double rate, double seconds, const char *before,
                   const char *after) {
    Connection *connections = calloc(count, sizeof *connections);
    int *unused = malloc(count * sizeof *unused), free_count = 0, poll = epoll_create1(0);
    for (int number = 0; number < count; number++) {
        connections[number].descriptor = connect_to(port);
        fcntl(connections[number].descriptor, F_SETFL, O_NONBLOCK);
        watch(poll, connections[number].descriptor, number);
        unused[free_count++] = number;
    }
    long requests = 0, refused = 0, late = 0, sent = 0;
    long long began = now_ns(), until = began + (long long)(seconds * 1e9);
    struct epoll_event ready[256];
    char *body = malloc(strlen(before) + strlen(after) + 32);
    while (now_ns() < until || free_count < count) {
        long long now = now_ns(), due = rate ? began + (long long)(sent * 1e9 / rate) : now;
        while (free_count && now < until && due <= now) {
            int number = unused[--free_count];
            Connection *connection = &connections[number];
            int size = *after ? sprintf(body, "%s%lld%s", before, now_ns(), after) : sprintf(body, "%s", before);
            connection->began = rate ? due : now_ns();
            post_to(connection, rate ? sent % runs : number % runs, body, size);
            sent++;
            due = rate ? began + (long long)(sent * 1e9 / rate) : now;
        }
        if (rate && !free_count && due <= now) late++;
        long wait = !rate || !free_count || now >= until ? 100 : (due - now) / 1000000;
        int found = epoll_wait(poll, ready, 256, wait);
        for (int each = 0; each < found; each++) {
            int number = ready[each].data.u32, status = answered(&connections[number]);
            if (!status) continue;
            sample(now_ns() - connections[number].began);
            requests++, refused += status < 200 || status > 299;
            unused[free_count++] = number;
        }
        if (rate && !found && free_count && now < until && due - now_ns() > 50000) usleep(30);
    }
    return report(requests, refused, late);
}

static char *text_of(const char *path) {
    FILE *file = fopen(path, "rb");
    char *text = calloc(1, 1 << 20);
    if (!file || !fread(text, 1, (1 << 20) - 1, file)) fail(path);
    fclose(file);
    return text;
}

int main(int count, char **words) {
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    samples = malloc(MAX_SAMPLES * sizeof *samples);
    const char *mode = count > 1 ? words[1] : "";
    if (!strcmp(mode, "follow") && count == 6)
        return follow(atoi(words[2]), atoi(words[3]), atoi(words[4]), atoi(words[5]));
    if (!strcmp(mode, "post") && count == 6)
        return produce(atoi(words[2]), atoi(words[3]), atoi(words[3]), 0, atof(words[4]), text_of(words[5]), "");
    if (!strcmp(mode, "produce") && count == 9)
        return produce(atoi(words[2]), atoi(words[3]), atoi(words[4]), atof(words[5]), atof(words[6]), words[7], words[8]);
    fprintf(stderr, "usage: load follow|post|produce ...\n");
    return 2;
}
