/* Thousands of readers of Server-Sent Events in one process: the load generator of `make bench-realtime`.
 *
 * Usage: clients COUNTER. Takes a command a line on stdin and answers each with a line of JSON:
 *
 *   requests FILE               the connections to make: "<length>\n<request>" for each, one after the other
 *   open PORT INFLIGHT SECONDS COUNT
 *                               connect those that are not, so many at a time, and again those that are refused or cut
 *                               off; answers when all are connected and have had COUNT events each
 *   mark                        count from here: events, bytes, latencies, own CPU
 *   stat                        tell the counts since the mark, and what each connection has had in all
 *   kill                        reset all connections (RST); the next open resumes from their last event
 *
 * An event counts when its data has {"n":<number>,"t":<nanoseconds>: n counts from 0 and shows what is missing, repeated
 * or out of order; t is CLOCK_MONOTONIC when it was published. COUNTER is a file of 8 bytes in which a publisher sees how
 * many events have arrived. HTTP is read loosely: chunk sizes are lines that no event has; frames are not split by them.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define SOURCES 16 /* addresses of 127.0.0.0/8 to connect from, as each has its own 28,000 ports */
#define ID_SIZE 64
#define MILLISECOND 1000000ull
#define SECOND (1000 * MILLISECOND)
/* Microseconds with 7 bits of precision (0.8 %): below 256 each its own bucket. */
#define SUB_BITS 7
#define BUCKETS ((64 - SUB_BITS) << SUB_BITS)

enum state { IDLE, CONNECTING, HEAD, OPENED, LIVE, WAITING, CLOSED };

struct connection {
    int fd;
    enum state state;
    int status;
    uint64_t retry_at, retry_ms;
    const char *request;
    size_t request_size;
    uint64_t count;  /* events since the start, over all its streams */
    uint64_t next_n; /* the number that the next event must have */
    char id[ID_SIZE], last_id[ID_SIZE];
    char *part; /* of a line, when a read ended within it */
    size_t part_size, part_room;
};

static struct connection *connections;
static size_t total, live, in_flight, cursor, in_flight_limit, lost;
static int epoll, port;
static bool is_opening;
static uint64_t opening_began, opening_ends, opening_count, retry_scan_at;
static uint64_t *counter;
static char buffer[256 * 1024];

/* Since the mark. */
static uint64_t marked_at, events, bytes, reads_with_events, histogram[BUCKETS], slowest, last_event_at, cpu_at;
static uint64_t refused, disorder, malformed; /* since the start */

static uint64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * SECOND + (uint64_t)t.tv_nsec;
}

static uint64_t cpu(void) {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * SECOND + (uint64_t)t.tv_nsec;
}

static void fail(const char *what) {
    fprintf(stderr, "clients: %s: %s\n", what, strerror(errno));
    exit(1);
}

static size_t bucket_of(uint64_t us) {
    if (us < (2u << SUB_BITS)) return us;
    int shift = 63 - __builtin_clzll(us) - SUB_BITS;
    return ((size_t)shift << SUB_BITS) + (us >> shift);
}

static double ms_of(size_t bucket) {
    size_t shift = bucket < (2u << SUB_BITS) ? 0 : (bucket >> SUB_BITS) - 1;
    return (double)((bucket - (shift << SUB_BITS)) << shift) / 1000;
}

static double percentile(double share) {
    uint64_t wanted = (uint64_t)(share * (double)events), seen = 0;
    for (size_t b = 0; b < BUCKETS; b++)
        if ((seen += histogram[b]) > wanted) return ms_of(b);
    return (double)slowest / 1000;
}

/* ---- what arrives ---- */

static const char *number(const char *p, const char *end, uint64_t *value) {
    while (p < end && *p == ' ') p++;
    const char *began = p;
    for (*value = 0; p < end && *p >= '0' && *p <= '9'; p++) *value = *value * 10 + (uint64_t)(*p - '0');
    return p > began ? p : NULL;
}

static const char *literal(const char *p, const char *end, const char *text) {
    while (p < end && *p == ' ') p++;
    size_t size = strlen(text);
    return (size_t)(end - p) >= size && !memcmp(p, text, size) ? p + size : NULL;
}

static void take_data(struct connection *c, const char *p, const char *end, uint64_t at) {
    for (; (p = memchr(p, '{', (size_t)(end - p))); p++) {
        uint64_t n, sent_at;
        const char *q = literal(p + 1, end, "\"n\":");
        if (!q) continue;
        if (!(q = number(q, end, &n)) || !(q = literal(q, end, ",")) || !(q = literal(q, end, "\"t\":")) ||
            !number(q, end, &sent_at)) {
            malformed++;
            return;
        }
        disorder += n != c->next_n;
        c->next_n = n + 1;
        c->count++;
        events++;
        last_event_at = at;
        uint64_t us = at > sent_at ? (at - sent_at) / 1000 : 0;
        if (us > slowest) slowest = us;
        histogram[bucket_of(us)]++;
        return;
    }
}

static void take_line(struct connection *c, const char *p, size_t size, uint64_t at) {
    if (size && p[size - 1] == '\r') size--;
    const char *end = p + size;
    if (c->state == HEAD) {
        if (!c->status) {
            c->status = size > 12 ? atoi(p + 9) : -1;
            c->retry_ms = 1000;
        } else if (!size) {
            c->state = OPENED;
        } else if (size > 12 && !strncasecmp(p, "retry-after:", 12)) {
            c->retry_ms = 1000 * strtoull(p + 12, NULL, 10);
        }
    } else if (!size) {
        memcpy(c->last_id, c->id, ID_SIZE);
    } else if (size > 5 && !memcmp(p, "data:", 5)) {
        take_data(c, p + 5, end, at);
    } else if (size > 3 && !memcmp(p, "id:", 3)) {
        p += 3 + (p[3] == ' ');
        size_t length = (size_t)(end - p);
        if (length >= ID_SIZE) length = ID_SIZE - 1;
        memcpy(c->id, p, length);
        c->id[length] = 0;
    } else if (size > 6 && !memcmp(p, "retry:", 6)) {
        c->retry_ms = strtoull(p + 6, NULL, 10);
    }
}

static void keep_part(struct connection *c, const char *p, size_t size) {
    if (c->part_size + size > c->part_room) {
        c->part_room = (c->part_size + size) * 2;
        c->part = realloc(c->part, c->part_room);
        if (!c->part) fail("memory");
    }
    memcpy(c->part + c->part_size, p, size);
    c->part_size += size;
}

static void take(struct connection *c, const char *p, size_t size, uint64_t at) {
    const char *end = p + size;
    bytes += size;
    while (p < end) {
        /* The body has begun: the server has us among its readers. */
        if (c->state == OPENED && c->status == 200) {
            c->state = LIVE;
            live++;
            in_flight--;
        }
        const char *line_end = memchr(p, '\n', (size_t)(end - p));
        if (!line_end) {
            keep_part(c, p, (size_t)(end - p));
            return;
        }
        if (c->part_size) {
            keep_part(c, p, (size_t)(line_end - p));
            take_line(c, c->part, c->part_size, at);
            c->part_size = 0;
        } else {
            take_line(c, p, (size_t)(line_end - p), at);
        }
        p = line_end + 1;
    }
}

/* ---- connections ---- */

static void let_go(struct connection *c) {
    if (c->state == CONNECTING || c->state == HEAD || c->state == OPENED) in_flight--;
    if (c->state == LIVE) live--;
    close(c->fd);
    c->fd = -1;
    c->part_size = 0;
}

static void end(struct connection *c) {
    bool was_live = c->state == LIVE;
    let_go(c);
    if (is_opening) {
        refused++;
        c->state = WAITING;
        c->retry_at = now() + (c->retry_ms ? c->retry_ms : 1000) * MILLISECOND;
    } else {
        lost += was_live;
        c->state = CLOSED;
    }
}

static void dial(size_t i) {
    struct connection *c = &connections[i];
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (c->fd < 0) fail("socket");
    int on = 1;
    setsockopt(c->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
    struct sockaddr_in from = {.sin_family = AF_INET}, to = {.sin_family = AF_INET};
    from.sin_addr.s_addr = htonl(INADDR_LOOPBACK + 1 + (uint32_t)(i % SOURCES));
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    to.sin_port = htons((uint16_t)port);
    if (bind(c->fd, (struct sockaddr *)&from, sizeof from)) fail("bind");
    c->state = CONNECTING;
    c->status = 0;
    c->retry_ms = 1000;
    in_flight++;
    struct epoll_event event = {.events = EPOLLOUT, .data.u64 = i};
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, c->fd, &event)) fail("epoll");
    if (connect(c->fd, (struct sockaddr *)&to, sizeof to) && errno != EINPROGRESS) end(c);
}

static void ask(size_t i) {
    struct connection *c = &connections[i];
    char text[8192];
    int size;
    /* Before the empty line that ends the request. */
    if (c->last_id[0])
        size = snprintf(text, sizeof text, "%.*sLast-Event-ID: %s\r\n\r\n", (int)c->request_size - 2, c->request,
                        c->last_id);
    else
        size = snprintf(text, sizeof text, "%.*s", (int)c->request_size, c->request);
    if (size >= (int)sizeof text) {
        fprintf(stderr, "clients: a request is too long\n");
        exit(1);
    }
    if (send(c->fd, text, (size_t)size, MSG_NOSIGNAL) != size) {
        end(c);
        return;
    }
    c->state = HEAD;
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = i};
    if (epoll_ctl(epoll, EPOLL_CTL_MOD, c->fd, &event)) fail("epoll");
}

static void receive(struct connection *c) {
    ssize_t size = recv(c->fd, buffer, sizeof buffer, 0);
    if (size < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (size <= 0) {
        end(c);
        return;
    }
    uint64_t before = events;
    take(c, buffer, (size_t)size, now());
    reads_with_events += events != before;
    *counter += events - before;
}

/* ---- commands ---- */

static void read_requests(const char *path) {
    FILE *file = fopen(path, "r");
    if (!file) fail(path);
    size_t size, room = 0;
    while (fscanf(file, "%zu", &size) == 1) {
        if (fgetc(file) != '\n') fail("requests");
        if (total == room) {
            room = room ? room * 2 : 1024;
            connections = realloc(connections, room * sizeof *connections);
        }
        char *text = malloc(size);
        if (!connections || !text || fread(text, 1, size, file) != size) fail("requests");
        connections[total++] = (struct connection){.fd = -1, .request = text, .request_size = size};
    }
    fclose(file);
    printf("{\"connections\":%zu}\n", total);
}

static bool all_have(uint64_t count) {
    for (size_t i = 0; i < total; i++)
        if (connections[i].count < count) return false;
    return true;
}

static void advance(void) {
    if (!is_opening) return;
    uint64_t at = now();
    if ((live == total && all_have(opening_count)) || at > opening_ends) {
        is_opening = false;
        printf("{\"live\":%zu,\"refused\":%" PRIu64 ",\"seconds\":%.6f}\n", live, refused,
               (double)(at - opening_began) / SECOND);
        return;
    }
    for (; cursor < total && in_flight < in_flight_limit; cursor++)
        if (connections[cursor].state == IDLE || connections[cursor].state == CLOSED) dial(cursor);
    if (at < retry_scan_at) return;
    retry_scan_at = at + 20 * MILLISECOND;
    for (size_t i = 0; i < total && in_flight < in_flight_limit; i++)
        if (connections[i].state == WAITING && connections[i].retry_at <= at) dial(i);
}

static void mark(void) {
    events = bytes = reads_with_events = slowest = 0;
    memset(histogram, 0, sizeof histogram);
    marked_at = now();
    cpu_at = cpu();
}

static void tell(void) {
    uint64_t at = now(), least = UINT64_MAX, most = 0, sum = 0;
    for (size_t i = 0; i < total; i++) {
        uint64_t count = connections[i].count;
        if (count < least) least = count;
        if (count > most) most = count;
        sum += count;
    }
    printf("{\"seconds\":%.6f,\"live\":%zu,\"lost\":%zu,\"events\":%" PRIu64 ",\"bytes\":%" PRIu64 ",\"reads\":%" PRIu64
           ",\"p50_ms\":%.3f,\"p99_ms\":%.3f,\"max_ms\":%.3f,\"least\":%" PRIu64 ",\"most\":%" PRIu64 ",\"sum\":%" PRIu64
           ",\"disorder\":%" PRIu64 ",\"malformed\":%" PRIu64 ",\"last_event_ns\":%" PRIu64 ",\"cpu_seconds\":%.6f}\n",
           (double)(at - marked_at) / SECOND, live, lost, events, bytes, reads_with_events, percentile(0.5),
           percentile(0.99), (double)slowest / 1000, total ? least : 0, most, sum, disorder, malformed, last_event_at,
           (double)(cpu() - cpu_at) / SECOND);
}

static void kill_all(void) {
    is_opening = false;
    for (size_t i = 0; i < total; i++) {
        struct connection *c = &connections[i];
        if (c->fd < 0) continue;
        struct linger reset = {.l_onoff = 1};
        setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
        let_go(c);
        c->state = IDLE;
    }
    printf("{}\n");
}

static void obey(char *line) {
    char path[4096];
    double seconds;
    if (sscanf(line, "requests %4095s", path) == 1) {
        read_requests(path);
    } else if (sscanf(line, "open %d %zu %lf %" SCNu64, &port, &in_flight_limit, &seconds, &opening_count) == 4) {
        is_opening = true;
        cursor = 0;
        refused = 0;
        opening_began = now();
        opening_ends = opening_began + (uint64_t)(seconds * SECOND);
    } else if (!strcmp(line, "mark")) {
        mark();
        printf("{}\n");
    } else if (!strcmp(line, "stat")) {
        tell();
    } else if (!strcmp(line, "kill")) {
        kill_all();
    } else {
        fprintf(stderr, "clients: no such command: %s\n", line);
        exit(1);
    }
}

static void read_commands(void) {
    static char text[8192];
    static size_t size;
    ssize_t got = read(STDIN_FILENO, text + size, sizeof text - size - 1);
    if (got <= 0) exit(0); /* the bench is over */
    size += (size_t)got;
    for (char *line_end; (line_end = memchr(text, '\n', size));) {
        *line_end = 0;
        obey(text);
        size -= (size_t)(line_end + 1 - text);
        memmove(text, line_end + 1, size);
    }
}

int main(int argc, char **argv) {
    if (argc != 2) {
        fprintf(stderr, "Usage: clients COUNTER\n");
        return 2;
    }
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    int file = open(argv[1], O_RDWR);
    if (file < 0) fail(argv[1]);
    counter = mmap(NULL, sizeof *counter, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (counter == MAP_FAILED) fail("mmap");
    setvbuf(stdout, NULL, _IOLBF, 0);
    if ((epoll = epoll_create1(EPOLL_CLOEXEC)) < 0) fail("epoll");
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = UINT64_MAX};
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, STDIN_FILENO, &event)) fail("epoll");
    mark();
    for (;;) {
        struct epoll_event ready[512];
        int count = epoll_wait(epoll, ready, 512, is_opening ? 5 : -1);
        if (count < 0 && errno != EINTR) fail("epoll");
        for (int k = 0; k < count; k++) {
            uint64_t i = ready[k].data.u64;
            if (i == UINT64_MAX) {
                read_commands();
                break; /* it may have closed what is ready */
            }
            struct connection *c = &connections[i];
            if (c->fd < 0) continue;
            if (c->state == CONNECTING) {
                int error = 0;
                socklen_t size = sizeof error;
                getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &size);
                if (error) end(c);
                else ask(i);
            } else {
                receive(c);
            }
        }
        advance();
    }
}
