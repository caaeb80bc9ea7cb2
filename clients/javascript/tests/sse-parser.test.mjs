// The cases of the WHATWG standard and of web-platform-tests/eventsource, cut at every byte.
import assert from "node:assert/strict";
import { test } from "node:test";

import { SseParser } from "../client.js";

const bytesOf = (text) => (typeof text === "string" ? new TextEncoder().encode(text) : text);

function parse(pieces, lastEventId) {
  const parser = new SseParser(lastEventId);
  const messages = pieces.flatMap((piece) => parser.feed(piece));
  return { messages, retrySeconds: parser.retrySeconds };
}

// Returns pieces that begin at these places.
function cut(bytes, places) {
  const ends = [...places, bytes.length];
  return [0, ...places].map((begin, index) => bytes.subarray(begin, ends[index]));
}

/** Parse as a whole, cut in two at every byte, byte by byte, and cut at random: all the same. */
function parsed(text, lastEventId) {
  const bytes = bytesOf(text);
  const whole = parse([bytes], lastEventId);
  for (let place = 0; place <= bytes.length; place += 1) {
    assert.deepEqual(parse(cut(bytes, [place]), lastEventId), whole, `cut at ${place}`);
  }
  const everywhere = [...bytes.keys()];
  assert.deepEqual(parse(cut(bytes, everywhere), lastEventId), whole, "byte by byte");
  for (let round = 0; round < 50; round += 1) {
    const places = everywhere.filter(() => Math.random() < 0.2);
    assert.deepEqual(parse(cut(bytes, places), lastEventId), whole, `cut at ${places}`);
  }
  return whole;
}

const data = (text, lastEventId) => parsed(text, lastEventId).messages.map((each) => each.data);
const message = (text, event = "message", lastEventId = "") => ({ event, data: text, lastEventId });

const LONG = "x".repeat(4096);

// [name, stream, the data of its messages]
const DATA = [
  ["format-bom", "\ufeffdata:1\n\n\ufeffdata:2\n\ndata:3\n\n", ["1", "3"]],
  ["format-bom-2: two of them", "\ufeff\ufeffdata:1\n\ndata:2\n\ndata:3\n\n", ["2", "3"]],
  ["format-comments", `data:1\r:\0\n:\r\ndata:2\n:${LONG}\rdata:3\n:data:fail\r:${LONG}\ndata:4\n\n`, ["1\n2\n3\n4"]],
  ["format-data-before-final-empty-line", "retry:1000\ndata:test1\n\nid:test\ndata:test2", ["test1"]],
  ["format-field-data", "data:\n\ndata\ndata\n\ndata:test\n\n", ["", "\n", "test"]],
  ["format-field-event-empty", "event: \ndata:data\n\n", ["data"]],
  ["format-field-parsing", "data:\0\ndata:  2\rData:1\ndata\0:2\ndata:1\r\0data:4\nda-ta:3\rdata_5\ndata:3\rdata:\r\n data:32\ndata:4\n\n", ["\0\n 2\n1\n3\n\n4"]],
  ["format-field-unknown", "data:test\n data\ndata\nfoobar:xxx\njustsometext\n:thisisacommentyay\n\n", ["test\n"]],
  ["format-leading-space", "data:\ttest\rdata: \ndata:test\n\n", ["\ttest\n\ntest"]],
  ["format-newlines", "data:test\r\ndata\ndata:test\r\n\r\n", ["test\n\ntest"]],
  ["format-null-character", "data:\0\n\n\n\n", ["\0"]],
  ["format-utf-8", "data:ok…\n\n", ["ok…"]],
  ["every kind of line break", "data:1\n\ndata:2\r\rdata:3\r\n\r\ndata:4\r\n\ndata:5\n\r\ndata:6\r\r\n", ["1", "2", "3", "4", "5", "6"]],
  ["a CR, then a LF that ends a line of its own", "data:1\n\r\rdata:2\r\n\n", ["1", "2"]],
  ["other breaks of lines are data", "data:\u2028\u2029\u0085\v\f\x1c\n\n", ["\u2028\u2029\u0085\v\f\x1c"]],
  ["one space is dropped", "data:  two\ndata: \ndata:   \n\n", [" two\n\n  "]],
  ["colons belong to the value", "data:a:b: c\n\n", ["a:b: c"]],
  ["an emoji of four bytes", "data: 🚰\n\n", ["🚰"]],
  ["a byte order mark within data stays", "data:\ufeffx\n\n", ["\ufeffx"]],
  ["an empty stream", "", []],
  ["only breaks", "\n\n\r\r\r\n\r\n", []],
  ["only a byte order mark", "\ufeff", []],
  ["the standard's example of stocks", "data: YHOO\ndata: +2\ndata: 10\n\n", ["YHOO\n+2\n10"]],
  ["the standard's example of blocks", ": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n\n", ["first event", "second event", " third event"]],
];

for (const [name, stream, expected] of DATA) {
  test(name, () => assert.deepEqual(data(stream), expected));
}

test("bytes that are not UTF-8 become U+FFFD", () => {
  for (const wrong of [[0xff], [0xc3], [0xe2, 0x82], [0xf0, 0x9f, 0x9a], [0xed, 0xa0, 0x80]]) {
    const stream = new Uint8Array([...bytesOf("data:a"), ...wrong, ...bytesOf("b\n\n")]);
    const [got] = data(stream);
    assert.match(got, /^a\ufffd+b$/);
  }
});

test("format-field-event", () => {
  const { messages } = parsed("event:test\ndata:x\n\ndata:x\n\nevent:a\nevent:b\ndata:x\n\n");
  assert.deepEqual(messages, [message("x", "test"), message("x"), message("x", "b")]);
});

test("an event without data loses its name", () => {
  assert.deepEqual(parsed("event:lost\n\ndata:x\n\n").messages, [message("x")]);
});

test("format-field-id: it stays until another one comes", () => {
  const { messages } = parsed("id:1\ndata:a\n\ndata:b\n\nid: 2\n\ndata:c\n\nid\ndata:d\n\nid:\ndata:e\n\n");
  const ids = messages.map((each) => each.lastEventId);
  assert.deepEqual(ids, ["1", "1", "2", "", ""]);
});

test("format-field-id-null: an id with a null character is no id", () => {
  for (const wrong of ["\0", "\0x", "x\0", "x\0x", " \0"]) {
    const { messages } = parsed(`id:1\ndata:a\n\nid:${wrong}\ndata:b\n\n`);
    assert.deepEqual(messages.map((each) => each.lastEventId), ["1", "1"]);
  }
});

test("a stream that resumes begins with the id of the one before", () => {
  assert.deepEqual(parsed("data:a\n\n", "7-0").messages, [message("a", "message", "7-0")]);
});

test("format-field-retry", () => {
  assert.equal(parsed("retry:03000\ndata:x\n\n").retrySeconds, 3);
  assert.equal(parsed("retry:1\nretry: 250\n").retrySeconds, 0.25);
  assert.equal(parsed("retry:0\n").retrySeconds, 0);
});

test("format-field-retry-bogus and format-field-retry-empty", () => {
  for (const wrong of ["3000foo", "", " ", "-1", "1.5", "1e3", "０", "0x1", "1".repeat(10), "+1"]) {
    assert.equal(parsed(`retry:${wrong}\n`).retrySeconds, null, wrong);
    assert.equal(parsed(`retry:70\nretry:${wrong}\n`).retrySeconds, 0.07, wrong);
  }
  assert.equal(parsed("retry\n").retrySeconds, null);
  assert.equal(parsed("retry:5").retrySeconds, null, "its line has not ended");
});

test("a line of a megabyte in small pieces takes no quadratic time", () => {
  const line = bytesOf(`data:${"é".repeat(2 ** 20)}\n\n`);
  const pieces = [];
  for (let begin = 0; begin < line.length; begin += 16) pieces.push(line.subarray(begin, begin + 16));
  assert.equal(parse(pieces).messages[0].data.length, 2 ** 20);
});

test("any stream means the same, cut anywhere", () => {
  const parts = ["data", "id", "event", "retry", ":", " ", "\n", "\r", "\r\n", "\0", "\ufeff", "é", "🚰", "7", "x"];
  for (let round = 0; round < 300; round += 1) {
    const length = Math.floor(Math.random() * 40);
    const stream = Array.from({ length }, () => parts[Math.floor(Math.random() * parts.length)]);
    parsed(stream.join(""));
  }
});
