// Answers and undos on their way to the server: kept in the browser until the server has them, sent one
// after another. Each has an id of its own, so sending twice does nothing twice.

import { after, call } from "./api.js";

const PATHS = { answer: "/api/answers", undo: "/api/undo" };

export class Outbox {
  // name: where they are kept; handlers: sent(item, result), refused(item, error), failing(error or null),
  // signedOut().
  constructor(name, handlers) {
    this.prefix = `rewardsmith:${name}:`;
    this.handlers = handlers;
    this.items = this.kept();
    this.sending = false;
    this.last = 0;
    this.send();
  }

  get length() {
    return this.items.length;
  }

  // item: {kind, body, of}; `of`: for an undo, the request whose answer it takes back.
  add(item) {
    this.last = Math.max(this.last + 1, Date.now());
    const kept = { ...item, key: this.prefix + String(this.last).padStart(15, "0") + item.body.request };
    this.items.push(kept);
    try {
      localStorage.setItem(kept.key, JSON.stringify(kept));
    } catch {
      // Storage may be full or forbidden: it is sent all the same, while the page is open.
    }
    this.send();
  }

  // Take an answer back before it was ever sent; false where it may have been.
  withdraw(request) {
    const item = this.items.find((one) => one.body.request === request);
    if (!item || item.tried) return false;
    this.forget(item);
    return true;
  }

  // Questions whose answers wait here and are not to be taken back.
  unsent() {
    const undone = new Set(this.items.filter((one) => one.kind === "undo").map((one) => one.of));
    const answers = this.items.filter((one) => one.kind === "answer" && !undone.has(one.body.request));
    return answers.map((one) => one.body.question);
  }

  kept() {
    try {
      const keys = Object.keys(localStorage).filter((key) => key.startsWith(this.prefix));
      return keys.sort().map((key) => JSON.parse(localStorage.getItem(key)));
    } catch {
      return [];
    }
  }

  forget(item) {
    this.items = this.items.filter((one) => one !== item);
    try {
      localStorage.removeItem(item.key);
    } catch {
      // As above.
    }
  }

  async send() {
    if (this.sending) return;
    this.sending = true;
    let pause = 0.5;
    while (this.items.length) {
      const item = this.items[0];
      item.tried = true;
      try {
        const result = await call("POST", PATHS[item.kind], item.body, { keepalive: true });
        this.forget(item);
        pause = 0.5;
        this.handlers.failing(null);
        this.handlers.sent(item, result);
      } catch (error) {
        if (error.status === 401 || error.status === 403) {
          this.handlers.signedOut();
          break;
        }
        if (error.passing) {
          this.handlers.failing(error);
          await after(Math.max(pause, error.wait));
          pause = Math.min(2 * pause, 5);
          continue;
        }
        this.forget(item);
        // What was never an answer cannot be taken back: the undo would hit the one before.
        this.items.filter((one) => one.of === item.body.request).forEach((one) => this.forget(one));
        this.handlers.refused(item, error);
      }
    }
    this.sending = false;
  }
}
