#!/usr/bin/env node
// All but queues (client.mjs), from Node.js: a DEALER and msgpack, made to be copied. docs/PROTOCOL.md explains the frames.
import { randomBytes } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import { decode, encode } from "@msgpack/msgpack";
import { Dealer } from "zeromq";

const USAGE = `usage, where HOST:PORT is any node, or several with commas between them:
  patterns.mjs events|store publish HOST:PORT NAME BODY...         prints to how many each event went, or its sequence
  patterns.mjs events subscribe HOST:PORT PATTERN COUNT [GROUP]    prints COUNT events
  patterns.mjs store read HOST:PORT NAME COUNT                     prints the first COUNT events that are kept
  patterns.mjs store subscribe HOST:PORT NAME COUNT CONSUMER       prints the next COUNT events of CONSUMER, and acks them
  patterns.mjs command|query respond HOST:PORT NAME COUNT [GROUP]  prints COUNT calls, answers in capitals
  patterns.mjs command|query call HOST:PORT NAME BODY [CACHE_KEY]  prints the answer; that of a query is kept under the key
  patterns.mjs route send HOST:PORT DESTINATIONS BODY...           sends to "orders;events:new;routes:audit", prints results`;
const HELLO = 0x01, PING = 0x02, SEND = 0x04, RECEIVE = 0x06, ACK = 0x07, OPEN_PRODUCER = 0x08, CLOSE = 0x0a, SUBSCRIBE = 0x21;
const UNSUBSCRIBE = 0x22, GRANT = 0x23, CALL = 0x25, RESPOND = 0x26, READ = 0x29, OPEN_CONSUMER = 0x2a;
const EVENTS = 0xa3, CALLED = 0xa6, ERROR = 0xff, ANSWER_MS = 2000, WAIT_MS = 1000, CREDIT = 1000, CREDIT_BYTES = 16 << 20;

const [noun, verb, addresses, name, ...rest] = process.argv.slice(2), counts = ["read", "subscribe", "respond"].includes(verb);
const nodes = addresses?.split(","), session = randomBytes(16), deadline = Date.now() + 30_000;
let socket, pushed; // one connection at a time, and what was pushed on it while a reply was waited for
let lastRequest = 0n, left = counts ? Number(rest[0]) : 0; // the id of each request is new; messages that are to come
function show(body) { left -= 1; process.stdout.write(Buffer.concat([body, Buffer.from("\n")])); }
const noneInTime = (error) => (error.code === "EAGAIN" ? [] : Promise.reject(error));

/** Make a request, and wait for nothing. Where there is no connection, it first takes the session to the next node. */
async function tell(command, fields, bodies = [], id = ++lastRequest) {
  const header = Buffer.from([0x5a, 0x42, 1, command, 0, 0, 0, 0, 0, 0, 0, 0]); // "ZB", version 1
  header.writeBigUInt64LE(id, 4);
  if (!socket) {
    nodes.push(nodes.shift());
    // ZeroMQ must not connect again by itself: the node would know neither session nor subscription, and nobody would notice.
    [pushed, socket] = [[], new Dealer({ linger: 0, reconnectInterval: -1, sendTimeout: 0 })];
    socket.connect(`tcp://${nodes.at(-1)}`);
    await tell(HELLO, { session, client_id: "node-example" });
  }
  await socket.send([Buffer.concat([header, encode(fields, { useBigInt64: true })]), ...bodies]).catch(noneInTime);
}

/** What comes next; undefined when nothing does in time. Integers of 64 bits become BigInt: a Number cannot hold a receipt. */
async function next(until) {
  socket.receiveTimeout = Math.max(until - Date.now(), 0);
  const [header, ...bodies] = await socket.receive().catch(noneInTime);
  const fields = header?.length > 12 ? decode(header.subarray(12), { useBigInt64: true }) : {};
  return header && { command: header[3], id: header.readBigUInt64LE(4), fields, bodies };
}

/** The next reply to the request `id`. What is pushed meanwhile is kept, and replies to other requests are dropped. */
async function reply(id, until) {
  for (let message; (message = await next(until)); ) {
    if (message.id === 0n) pushed.push(message);
    else if (message.id === id) return message;
  }
  return { command: ERROR, fields: { code: "DEADLINE_EXCEEDED", message: "no answer", retryable: true, retry_ms: 0 } };
}

/** The reply to a request, repeated at the next node until it comes. What must be done `once` goes to a node that answers. */
async function ask(command, fields, { bodies, once = false } = {}) {
  if (once) await ask(PING, {});
  for (const id = ++lastRequest; ; socket = socket.close()) {
    await tell(command, fields, bodies, id);
    const answer = await reply(id, Date.now() + (fields.wait_ms ?? fields.timeout_ms ?? 0) + ANSWER_MS);
    if (answer.command !== ERROR) return answer;
    const { code, message, retryable, retry_ms: pauseMs = 100 } = answer.fields;
    if (!retryable || once || Date.now() > deadline) throw new Error(`${code}: ${message}`);
    await sleep(Number(pauseMs));
  }
}

/** Send through a producer, so that each message is stored once. Events have none, and are published once at most. */
async function send(target, producer) {
  if (producer) await ask(OPEN_PRODUCER, { ...target, producer, forward: true });
  for (const [index, body] of rest.entries()) {
    const wanted = producer ? { ...target, producer, sequence: index + 1, forward: true } : target;
    const { fields } = await ask(SEND, wanted, { bodies: [Buffer.from(body)], once: !producer });
    for (const { destination = "", code, subscribers, sequence } of fields.results ?? [fields])
      console.log(`${destination} ${code ?? subscribers ?? sequence}`.trim());
    if (fields.results?.some(({ code }) => code)) process.exitCode = 1;
  }
}

/** Show what is pushed, and answer calls. To repeat SUBSCRIBE shows whether the node is there, and makes anew what is lost. */
async function subscribe(wanted) {
  const terms = { subscription: 1, pattern: name, credit: CREDIT, credit_bytes: CREDIT_BYTES, plain: true, ...wanted };
  for (let connection, count, bytes, missed; left > 0 && Date.now() < deadline; ) {
    await ask(SUBSCRIBE, terms);
    if (socket !== connection) [connection, count, bytes, missed] = [socket, 0, 0, 0];
    for (let message, until = Date.now() + WAIT_MS; left > 0 && (message = pushed.shift() ?? (await next(until))); ) {
      const { command, fields, bodies } = message;
      if (bodies.length >= left) await tell(UNSUBSCRIBE, { subscription: 1 }); // first, so that no other call comes
      if (command === CALLED) {
        show(bodies[0]);
        await tell(RESPOND, { call: fields.call }, [Buffer.from(bodies[0].toString().toUpperCase())]);
      } else if (command === EVENTS) {
        if (fields.missed > missed) console.error(`missed until now: ${(missed = fields.missed)}`);
        bodies.slice(0, left).forEach(show);
        for (const body of bodies) [count, bytes] = [count + 1, bytes + body.length];
        await tell(GRANT, { subscription: 1, credit: BigInt(count + CREDIT), credit_bytes: BigInt(bytes + CREDIT_BYTES) });
      }
    }
  }
}

async function call(kind, cached) {
  const wanted = { kind, channel: name, timeout_ms: 10_000, ...cached }, bodies = [Buffer.from(rest[0])];
  for (let answer = await ask(CALL, wanted, { bodies, once: true }); answer; ) {
    const { code, error, cache_hit: hit, last = true } = answer.fields;
    if (code || error) throw new Error(code ?? `the responder says: ${error}`);
    show(answer.bodies[0]);
    if (hit) console.log("(from the cache)");
    answer = last ? undefined : await reply(answer.id, Date.now() + wanted.timeout_ms + ANSWER_MS); // else it was a part
  }
}

async function read(channel) {
  for (let place = { start: "first" }; left > 0 && Date.now() < deadline; ) {
    const { fields, bodies } = await ask(READ, { channel, ...place, max: left, plain: true, forward: true });
    bodies.forEach(show);
    place = { start: "sequence", value: fields.next, incarnation: fields.incarnation, wait_ms: WAIT_MS };
  }
}

async function consume(channel) {
  await ask(OPEN_CONSUMER, { channel, start: "first", exclusive: true, forward: true });
  while (left > 0 && Date.now() < deadline) {
    const { fields, bodies } = await ask(RECEIVE, { channel, max: left, wait_ms: WAIT_MS, plain: true, forward: true });
    bodies.forEach(show);
    const receipts = fields.messages.map(({ assigning, sequence }) => [assigning, sequence, sequence]);
    if (receipts.length) await ask(ACK, { channel, receipts, forward: true });
  }
}

const producer = randomBytes(8).readBigUInt64LE() | 1n, more = rest[1] ?? ""; // 0 stands for no producer
const RUNS = {
  "events subscribe": () => subscribe({ kind: "events", group: more }),
  "store publish": () => send({ channel: `events_store:${name}` }, producer),
  "store read": () => read(`events_store:${name}`), "store subscribe": () => consume(`events_store:${name}>${more}`),
  "command respond": () => subscribe({ kind: "commands", group: more, credit: 1 }),
  "query respond": () => subscribe({ kind: "queries", group: more, credit: 1 }),
  "command call": () => call("commands"), "query call": () => call("queries", more && { cache_key: more, cache_ttl_ms: 60000 }),
  "events publish": () => send({ channel: `events:${name}` }), "route send": () => send({ to: name }, producer),
};
const run = RUNS[`${noun} ${verb}`], fits = counts ? /^[1-9]\d{0,3}$/.test(rest[0]) : rest.length;
const fail = (said, status) => (console.error(said), (process.exitCode = status));
if (!run || !fits || !/^[^:,]+:\d+(,[^:,]+:\d+)*$/.test(addresses)) process.exit(fail(USAGE, 2));
await run().then(() => left > 0 && fail("not all messages came within 30 s", 1), (error) => fail(error.message, 1));
await ask(CLOSE, { forward: true }).catch(() => {}); // what the session may still hold is ready for others at once
socket.close();
