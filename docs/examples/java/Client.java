// A zmqbroker client in Java 17, made of a DEALER socket (JeroMQ) and msgpack; copy from it what you need. docs/PROTOCOL.md
// explains the frames (section 2), the requests (3) and the producer (4).
//
//   export CLASSPATH=/usr/share/java/jeromq.jar:/usr/share/java/msgpack-core.jar:.
//   javac -d . Client.java
//   java Client send HOST:PORT CHANNEL BODY...      stores the messages, prints the sequence of each
//   java Client receive HOST:PORT CHANNEL COUNT     prints the bodies of COUNT messages and acks each
//
// HOST:PORT is any node of the cluster; name several, with commas between them, to go on when one of them is down.
// Exit status: 0 done; 1 refused, or not done within 30 s; 2 wrong usage.
import static org.msgpack.value.ValueFactory.*;

import java.io.IOException;
import java.nio.*;
import java.security.SecureRandom;
import java.util.*;
import org.msgpack.core.*;
import org.msgpack.value.Value;
import org.zeromq.*;

/** One session with the broker, over one connection at a time. */
public final class Client {
    static final int HELLO = 0x01, SEND = 0x04, RECEIVE = 0x06, ACK = 0x07, OPEN_PRODUCER = 0x08, CLOSE = 0x0a, ERROR = 0xff;
    static final int HEADER_SIZE = 12;
    static final int WAIT_MS = 1_000;      // of one RECEIVE for a message
    static final int PATIENCE_MS = 30_000; // for one request with all its attempts, and for all of `receive`
    static final int ANSWER_MS = 2_000;    // for one attempt, beyond the time that the request itself may wait
    static final int PAUSE_MS = 100;       // before the next attempt, when the broker names no time

    /** The fields of a reply or of a message in it, and the body frames. */
    record Reply(Map<Value, Value> fields, ZMsg bodies) {
        Value get(String name) { return fields.get(newString(name)); }
    }

    private final ZContext context = new ZContext();
    private final SecureRandom random = new SecureRandom();
    private final byte[] session = new byte[16];
    private final Deque<String> addresses; // of nodes; the next one to connect to comes first
    private ZMQ.Socket socket;             // null: not connected
    private long lastRequest;              // request ids are new for every request of a session
    private long deadline = System.currentTimeMillis() + PATIENCE_MS;

    Client(String addresses) {
        this.addresses = new ArrayDeque<>(List.of(addresses.split(",")));
        random.nextBytes(session);
    }

    /**
     * Make a request with these keys and values and return its reply. Until `deadline` it is repeated with the same request id,
     * each time at the next node: the broker then does it once, and answers as it did, or would have done, the first time.
     * Throws IOException with the code of an ERROR reply, or with DEADLINE_EXCEEDED.
     */
    Reply ask(int command, byte[] body, int waitMs, Object... fields) throws Exception {
        byte[] header = header(command, fields);
        String error = "DEADLINE_EXCEEDED: no answer";
        do {
            if (socket == null) connect();
            socket.setReceiveTimeOut(waitMs + ANSWER_MS);
            socket.send(header, body == null ? 0 : ZMQ.SNDMORE);
            if (body != null) socket.send(body, 0);
            ZMsg frames = ZMsg.recvMsg(socket);
            while (frames != null && !Arrays.equals(frames.peek().getData(), 4, HEADER_SIZE, header, 4, HEADER_SIZE)) {
                frames = ZMsg.recvMsg(socket); // that was the reply to another request
            }
            if (frames != null) {
                byte[] answer = frames.pop().getData();
                Value map = MessagePack.newDefaultUnpacker(answer, HEADER_SIZE, answer.length - HEADER_SIZE).unpackValue();
                Reply reply = new Reply(map.asMapValue().map(), frames);
                if ((answer[3] & 0xff) != ERROR) return reply;
                error = reply.get("code") + ": " + reply.get("message");
                if (!reply.get("retryable").asBooleanValue().getBoolean()) break;
                Thread.sleep(reply.fields.getOrDefault(newString("retry_ms"), newInteger(PAUSE_MS)).asIntegerValue().toLong());
            }
            context.destroySocket(socket);
            socket = null;
        } while (System.currentTimeMillis() < deadline);
        throw new IOException(error);
    }

    /** Connect to the next node. HELLO takes the session there; requests are read in order, so nobody need wait for WELCOME. */
    private void connect() throws IOException {
        addresses.addLast(addresses.removeFirst());
        socket = context.createSocket(ZMQ.DEALER);
        socket.connect("tcp://" + addresses.peekLast());
        socket.send(header(HELLO, "session", newBinary(session)), 0);
    }

    /** A header frame. A node that does not lead passes on whatever is to be forwarded. */
    private byte[] header(int command, Object... fields) throws IOException {
        MessageBufferPacker packer = MessagePack.newDefaultBufferPacker();
        packer.packMapHeader(fields.length / 2 + 1).packString("forward").packBoolean(true);
        for (Object field : fields) packer.packValue(field instanceof Value value ? value : newString((String) field));
        byte[] packed = packer.toByteArray();
        return ByteBuffer.allocate(HEADER_SIZE + packed.length).order(ByteOrder.LITTLE_ENDIAN)
            .put((byte) 'Z').put((byte) 'B').put((byte) 1).put((byte) command).putLong(++lastRequest).put(packed).array();
    }

    /** Send messages. The producer and its sequence let the broker store each once, however often a request is repeated. */
    void send(String channel, List<String> bodies) throws Exception {
        Value producer = newInteger(random.nextLong() >>> 1 | 1); // 0 stands for none
        ask(OPEN_PRODUCER, null, 0, "channel", channel, "producer", producer);
        for (int place = 0; place < bodies.size(); place++) {
            deadline = System.currentTimeMillis() + PATIENCE_MS;
            byte[] body = bodies.get(place).getBytes("UTF-8");
            Reply sent = ask(SEND, body, 0, "channel", channel, "producer", producer, "sequence", newInteger(place + 1));
            System.out.println(sent.get("sequence"));
        }
    }

    /** Receive `count` messages, and ack each when it is printed. */
    void receive(String channel, int count) throws Exception {
        while (count > 0 && System.currentTimeMillis() < deadline) {
            Value wait = newInteger(WAIT_MS);
            Reply received = ask(RECEIVE, null, WAIT_MS, "channel", channel, "wait_ms", wait, "plain", newBoolean(true));
            for (Value each : received.get("messages").asArrayValue()) { // there is one at most, since no `max` says more
                Reply message = new Reply(each.asMapValue().map(), received.bodies);
                System.out.write(message.bodies.peek().getData());
                System.out.println();
                Value receipt = newArray(message.get("assigning"), message.get("sequence"), message.get("sequence"));
                ask(ACK, null, 0, "channel", channel, "receipts", newArray(receipt));
                count--;
            }
        }
        if (count > 0) throw new IOException("not all messages came within 30 s");
    }

    public static void main(String[] words) throws Exception {
        boolean sends = words.length > 3 && words[0].equals("send");
        boolean receives = words.length == 4 && words[0].equals("receive") && words[3].matches("[1-9]\\d{0,8}");
        if (!(sends || receives) || !words[1].matches("[^:,]+:\\d+(,[^:,]+:\\d+)*")) {
            System.err.println("usage: Client send HOST:PORT CHANNEL BODY... | Client receive HOST:PORT CHANNEL COUNT");
            System.exit(2);
        }
        int status = 0;
        Client client = new Client(words[1]);
        try {
            if (sends) client.send(words[2], List.of(words).subList(3, words.length));
            else client.receive(words[2], Integer.parseInt(words[3]));
        } catch (IOException error) {
            System.err.println(error.getMessage());
            status = 1;
        }
        // Close the session, so that what it may still hold is ready for others at once, and not when its silence ends it.
        if (client.socket != null) client.socket.send(client.header(CLOSE), 0);
        client.context.setLinger(ANSWER_MS);
        client.context.close();
        System.exit(status);
    }
}
