/* A zmqbroker client in C, made of a DEALER socket (CZMQ) and msgpack; copy from it what you need. docs/PROTOCOL.md explains
 * the frames (section 2), the requests (3) and the producer (4).
 *
 *   cc -o client client.c $(pkg-config --cflags --libs libczmq msgpack)     (newer systems call msgpack `msgpack-c`)
 *   ./client send HOST:PORT CHANNEL BODY...      stores the messages, prints the sequence of each
 *   ./client receive HOST:PORT CHANNEL COUNT     prints the bodies of COUNT messages and acks each
 *
 * HOST:PORT is any node of the cluster; name several, with commas between them, to go on when one of them is down.
 * Exit status: 0 done; 1 refused, or not done within 30 s; 2 wrong usage. */
#include <czmq.h>
#include <msgpack.h>

enum { HELLO = 0x01, SEND = 0x04, RECEIVE = 0x06, ACK = 0x07, OPEN_PRODUCER = 0x08, CLOSE = 0x0a, ERROR = 0xff };
enum { HEADER_SIZE = 12, PATIENCE_MS = 30000, /* for one request with all its attempts, and for all of `receive` */
       WAIT_MS = 1000, ANSWER_MS = 2000,      /* of one RECEIVE; of one attempt, beyond what its request itself waits */
       PAUSE_MS = 100 };                      /* before the next attempt, when the broker names no time */

static const char *nodes, *next_node;   /* HOST:PORT,HOST:PORT… and a place in it */
static zsock_t *dealer;                 /* NULL: not connected */
static zframe_t *hello;                 /* names this client's session, over whichever connection */
static msgpack_sbuffer request;         /* the header frame that is made, and sent until it is answered */
static msgpack_packer fields;           /* writes to it */
static zmsg_t *reply;                   /* the frames of the last reply: header, bodies */
static msgpack_unpacked unpacked;       /* its fields, which point into the header */

static void text(const char *value) { msgpack_pack_str_with_body(&fields, value, strlen(value)); }
static void number(uint64_t value) { msgpack_pack_uint64(&fields, value); }

/* Begin a request; the caller packs `count` fields more. Whoever does not know a field ignores it. */
static void begin(int command, const char *channel, size_t count)
{
    static uint64_t id;   /* new for every request of the session */
    char header[HEADER_SIZE] = {'Z', 'B', 1, (char) command};
    id++;
    for (int place = 0; place < 8; place++)
        header[4 + place] = (char) (id >> 8 * place);
    msgpack_sbuffer_clear(&request), msgpack_sbuffer_write(&request, header, HEADER_SIZE);
    msgpack_pack_map(&fields, count + 2);
    text("channel"), text(channel);
    text("forward"), msgpack_pack_true(&fields);   /* a node that does not lead passes the request on */
}

/* A field of what `unpacked` has; nil when there is none of that name. */
static msgpack_object field(const char *name)
{
    msgpack_object_map map = unpacked.data.type == MSGPACK_OBJECT_MAP ? unpacked.data.via.map : (msgpack_object_map) {0};
    for (msgpack_object_kv *pair = map.ptr; pair < map.ptr + map.size; pair++)
        if (pair->key.via.str.size == strlen(name) && !memcmp(pair->key.via.str.ptr, name, strlen(name)))
            return pair->val;
    return (msgpack_object) {.type = MSGPACK_OBJECT_NIL};
}

/* Whether `reply` answers the request, and not another one; reads its fields. */
static bool is_answer(void)
{
    zframe_t *header = zmsg_first(reply);
    if (zframe_size(header) < HEADER_SIZE || memcmp(zframe_data(header) + 4, request.data + 4, 8))
        return false;
    msgpack_unpack_next(&unpacked, (char *) zframe_data(header), zframe_size(header), &(size_t) {HEADER_SIZE});
    return true;
}

/* Make the request, and end the program if it is refused. Until the deadline it is repeated with the same request id, each time
 * at the next node: the broker then does it once, and answers as it did, or would have done, the first time. */
static void ask(const char *body, int wait_ms, int64_t deadline)
{
    char reason[300] = "DEADLINE_EXCEEDED: no answer";
    for (bool again = true; again; again = zclock_mono() < deadline, zsock_destroy(&dealer)) {
        if (!dealer) {   /* HELLO takes the session there; requests are read in order, so nobody need wait for WELCOME */
            size_t size = strcspn(next_node, ",");
            dealer = zsock_new(ZMQ_DEALER);
            if (zsock_connect(dealer, "tcp://%.*s", (int) size, next_node))
                zsock_destroy(&dealer), fprintf(stderr, "no HOST:PORT: %s\n", next_node), exit(2);
            next_node = next_node[size] ? next_node + size + 1 : nodes;
            zframe_send(&hello, dealer, ZFRAME_REUSE);
        }
        zsock_set_rcvtimeo(dealer, wait_ms + ANSWER_MS);
        zsock_send(dealer, body ? "bs" : "b", request.data, request.size, body);
        do zmsg_destroy(&reply); while ((reply = zmsg_recv(dealer)) && !is_answer());
        if (!reply)
            continue;
        if (zframe_data(zmsg_first(reply))[3] != ERROR)
            return;
        msgpack_object_str code = field("code").via.str, message = field("message").via.str;
        snprintf(reason, sizeof reason, "%.*s: %.*s", (int) code.size, code.ptr, (int) message.size, message.ptr);
        if (!field("retryable").via.boolean)
            break;
        zclock_sleep(field("retry_ms").type == MSGPACK_OBJECT_NIL ? PAUSE_MS : (int) field("retry_ms").via.u64);
    }
    fprintf(stderr, "%s\n", reason);
    exit(1);
}

/* Send messages. The producer and its sequence let the broker store each once, however often a request is repeated. */
static void send_all(const char *channel, char **bodies, uint64_t producer)
{
    begin(OPEN_PRODUCER, channel, 1), text("producer"), number(producer);
    ask(NULL, 0, zclock_mono() + PATIENCE_MS);
    for (uint64_t sequence = 1; *bodies; sequence++) {
        begin(SEND, channel, 2), text("producer"), number(producer), text("sequence"), number(sequence);
        ask(*bodies++, 0, zclock_mono() + PATIENCE_MS);
        printf("%" PRIu64 "\n", field("sequence").via.u64);
    }
}

/* Receive `count` messages, and ack each when it is printed. */
static void receive_all(const char *channel, long count)
{
    for (int64_t deadline = zclock_mono() + PATIENCE_MS; count && zclock_mono() < deadline;) {
        begin(RECEIVE, channel, 2), text("wait_ms"), number(WAIT_MS), text("plain"), msgpack_pack_true(&fields);
        ask(NULL, WAIT_MS, deadline);
        if (field("messages").via.array.size == 0)
            continue;
        unpacked.data = field("messages").via.array.ptr[0];   /* there is one at most, since no `max` says more */
        fwrite(zframe_data(zmsg_last(reply)), 1, zframe_size(zmsg_last(reply)), stdout), putchar('\n');
        uint64_t assigning = field("assigning").via.u64, sequence = field("sequence").via.u64;
        begin(ACK, channel, 1), text("receipts"), msgpack_pack_array(&fields, 1), msgpack_pack_array(&fields, 3);
        number(assigning), number(sequence), number(sequence);
        ask(NULL, 0, deadline);
        count--;
    }
    if (count)
        fputs("not all messages came within 30 s\n", stderr), exit(1);
}

/* Close the session, so that what it may still hold is ready for others at once, and not when its silence ends it. */
static void close_session(void)
{
    if (dealer)
        begin(CLOSE, "", 0), zsock_set_linger(dealer, ANSWER_MS), zsock_send(dealer, "b", request.data, request.size);
    zsock_destroy(&dealer);
}

int main(int argc, char **argv)
{
    bool sending = argc > 4 && !strcmp(argv[1], "send");
    if (!sending && (argc != 5 || strcmp(argv[1], "receive") || atol(argv[4]) < 1))
        return fputs("usage: client send HOST:PORT CHANNEL BODY... | client receive HOST:PORT CHANNEL COUNT\n", stderr), 2;
    zsys_init(), zsys_handler_set(NULL), atexit(close_session);   /* without a handler of CZMQ's own Ctrl-C ends the program */
    setvbuf(stdout, NULL, _IOLBF, 0);                             /* a body is out before it is acked */
    nodes = next_node = argv[2];
    msgpack_packer_init(&fields, &request, msgpack_sbuffer_write);
    zuuid_t *session = zuuid_new(), *producer = zuuid_new();   /* both are random */
    begin(HELLO, "", 1), text("session"), msgpack_pack_bin_with_body(&fields, zuuid_data(session), zuuid_size(session));
    hello = zframe_new(request.data, request.size);
    sending ? send_all(argv[3], argv + 4, *(uint64_t *) zuuid_data(producer) | 1) : receive_all(argv[3], atol(argv[4]));
}
