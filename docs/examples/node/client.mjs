#!/usr/bin/env node
// A zmqbroker client in Node.js, made of a DEALER socket and msgpack; copy from it what you need. docs/PROTOCOL.md explains the
// frames (section 2), the requests (3) and the producer (4). Install what it imports with `npm ci`, in this directory.
//
//   node client.mjs send HOST:PORT CHANNEL BODY...      stores the messages, prints the sequence of each
//   node client.mjs receive HOST:PORT CHANNEL COUNT     prints the bodies of COUNT messages and acks each
//
// HOST:PORT is any node of the cluster; name several, with commas between them, to go on when one of them is down.
// Exit status: 0 done; 1 refused, or not done within 30 s; 2 wrong usage.
import { randomBytes } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import { decode, encode } from "@msgpack/msgpack";
import { Dealer } from "zeromq";

const HELLO = 0x01, SEND = 0x04, RECEIVE = 0x06, ACK = 0x07, OPEN_PRODUCER = 0x08, CLOSE = 0x0a, ERROR = 0xff;
const HEADER_SIZE = 12;
const PATIENCE_MS = 30_000; // for one request with all its attempts, and for all of `receive`
const ANSWER_MS = 2_000; // for one attempt, beyond the time that the request itself may wait
const PAUSE_MS = 100; // before the next attempt, when the broker names no time

/** An ERROR reply, by its code; DEADLINE_EXCEEDED when there was no reply. */
class BrokerError extends Error {
  constructor(fields) {
    super(`${fields.code}: ${fields.message}`);
    Object.assign(this, { retryable: fields.retryable, retryMs: Number(fields.retry_ms ?? PAUSE_MS) });
  }
}

/** One session with the broker, over one connection at a time. */
class Session {
  #id = randomBytes(16);
  #lastRequest = 0n; // request ids are new for every request of a session
  #addresses;
  #socket;

  constructor(addresses) {
    this.#addresses = addresses.split(",");
  }

  /**
   * Make a request and return `{fields, bodies}` of its reply. Until `deadline` it is repeated with the same request id, each
   * time at the next node: the broker then does it once, and answers as it did, or would have done, the first time.
   */
  async ask(command, fields, { bodies = [], waitMs = 0, deadline = Date.now() + PATIENCE_MS } = {}) {
    const header = this.#header(command, { ...fields, forward: true }); // so that nodes that do not lead pass it on
    let error = new BrokerError({ code: "DEADLINE_EXCEEDED", message: "no answer" });
    do {
      if (!this.#socket) await this.#connect();
      await this.#socket.send([header, ...bodies]);
      const reply = await this.#reply(header, Date.now() + waitMs + ANSWER_MS);
      if (reply && reply.command !== ERROR) return reply;
      if (reply) {
        error = new BrokerError(reply.fields);
        if (!error.retryable) throw error;
        await sleep(error.retryMs);
      }
      this.disconnect();
    } while (Date.now() < deadline);
    throw error;
  }

  /** Connect to the next node. HELLO takes the session there; requests are read in order, so nobody need wait for WELCOME. */
  async #connect() {
    const address = this.#addresses.shift();
    this.#addresses.push(address);
    this.#socket = new Dealer({ linger: 0 });
    this.#socket.connect(`tcp://${address}`);
    await this.#socket.send(this.#header(HELLO, { session: this.#id, client_id: "node-example" }));
  }

  disconnect() {
    this.#socket?.close();
    this.#socket = undefined;
  }

  #header(command, fields) {
    const start = Buffer.from([0x5a, 0x42, 1, command, 0, 0, 0, 0, 0, 0, 0, 0]); // "ZB", version 1
    start.writeBigUInt64LE(++this.#lastRequest, 4);
    return Buffer.concat([start, encode(fields, { useBigInt64: true })]);
  }

  /** The reply to the request with this header, undefined when there is none in time. Replies to others are dropped. */
  async #reply(request, deadline) {
    for (;;) {
      this.#socket.receiveTimeout = Math.max(deadline - Date.now(), 0);
      const frames = await this.#socket.receive().catch((error) => {
        if (error.code !== "EAGAIN") throw error;
      });
      if (!frames) return undefined;
      const [header, ...bodies] = frames;
      if (!header.subarray(4, HEADER_SIZE).equals(request.subarray(4, HEADER_SIZE))) continue;
      // Integers of 64 bits become BigInt: receipts and instants are larger than a Number can hold.
      const fields = header.length > HEADER_SIZE ? decode(header.subarray(HEADER_SIZE), { useBigInt64: true }) : {};
      return { command: header[3], fields, bodies };
    }
  }
}

/** Send messages. The producer and its sequence let the broker store each once, however often a request is repeated. */
async function send(session, channel, messages) {
  const producer = randomBytes(8).readBigUInt64LE() | 1n; // 0 stands for none
  await session.ask(OPEN_PRODUCER, { channel, producer });
  for (const [index, body] of messages.entries()) {
    const sent = await session.ask(SEND, { channel, producer, sequence: index + 1 }, { bodies: [Buffer.from(body)] });
    console.log(String(sent.fields.sequence));
  }
}

/** Receive `count` messages and ack each when it is printed; false when they did not come in time. */
async function receive(session, channel, count) {
  const deadline = Date.now() + PATIENCE_MS;
  for (let left = count; left > 0; ) {
    const waitMs = Math.min(1000, deadline - Date.now());
    if (waitMs <= 0) return false;
    const fields = { channel, max: Math.min(left, 100), wait_ms: waitMs, plain: true };
    const received = await session.ask(RECEIVE, fields, { waitMs, deadline });
    for (const [index, message] of received.fields.messages.entries()) {
      process.stdout.write(Buffer.concat([received.bodies[index], Buffer.from("\n")]));
      const receipt = [message.assigning, message.sequence, message.sequence];
      await session.ask(ACK, { channel, receipts: [receipt] }, { deadline });
      left -= 1;
    }
  }
  return true;
}

const [verb, addresses, channel, ...rest] = process.argv.slice(2);
const receives = verb === "receive" && rest.length === 1 && /^[1-9]\d*$/.test(rest[0]);
if (!/^[^:,]+:\d+(,[^:,]+:\d+)*$/.test(addresses) || !(receives || (verb === "send" && rest.length))) {
  console.error("usage: client.mjs send HOST:PORT CHANNEL BODY... | client.mjs receive HOST:PORT CHANNEL COUNT");
  process.exit(2);
}
const session = new Session(addresses);
try {
  if (!receives) await send(session, channel, rest);
  else if (!(await receive(session, channel, Number(rest[0])))) throw new Error("not all messages came within 30 s");
} catch (error) {
  console.error(error.message);
  process.exitCode = 1;
}
// Close the session, so that what it may still hold is ready for others at once, and not when its silence ends it.
await session.ask(CLOSE, {}, { deadline: Date.now() + ANSWER_MS }).catch(() => {});
session.disconnect();
