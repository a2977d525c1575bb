// Two films side by side that start together, run at one speed and begin again together.

const still = matchMedia("(prefers-reduced-motion: reduce)");
const NAMES = ["A", "B"];
const FRAME = 0.034;

function once(target, ...events) {
  return new Promise((resolve) => {
    const done = () => {
      events.forEach((event) => target.removeEventListener(event, done));
      resolve();
    };
    events.forEach((event) => target.addEventListener(event, done));
  });
}

export class Pair {
  constructor(data) {
    this.data = data;
    this.question = data.question;
    this.startedAt = null;
    this.shown = false;
    this.rate = 1;
    this.turn = 0;
    this.element = document.createElement("div");
    this.element.className = "pair";
    this.element.dataset.question = data.question;
    this.element.inert = true;
    this.videos = [];
    [data.left, data.right].forEach((side, index) => this.element.append(this.film(side, NAMES[index])));
  }

  film(side, name) {
    const figure = document.createElement("figure");
    const caption = document.createElement("figcaption");
    caption.textContent = name;
    const video = document.createElement("video");
    video.muted = true;
    video.playsInline = true;
    video.disablePictureInPicture = true;
    video.disableRemotePlayback = true;
    video.preload = "auto";
    video.setAttribute("aria-label", `Film ${name}: ${side.env}, ${side.length} steps`);
    video.addEventListener("ended", () => this.ended());
    const lost = document.createElement("p");
    lost.className = "lost";
    lost.hidden = true;
    figure.append(video, caption, lost);
    video.addEventListener("loadedmetadata", () => {
      figure.style.setProperty("--shape", video.videoWidth / video.videoHeight || 4 / 3);
    });
    this.videos.push(video);
    video.wanted = side.film;
    video.lost = lost;
    const place = document.createElement("div");
    place.className = "place";
    place.append(figure);
    return place;
  }

  // Resolves once both can be played through, or have proved that they cannot be.
  load() {
    this.loaded ??= Promise.all(this.videos.map((video) => this.fetch(video)));
    return this.loaded;
  }

  async fetch(video) {
    for (let pause = 250; video.wanted && !this.gone; pause = Math.min(2 * pause, 5000)) {
      video.src = video.wanted;
      const arrived = once(video, "canplaythrough", "error");
      // A long film may be good to play long before it is here.
      await Promise.race([arrived, new Promise((resolve) => setTimeout(resolve, 4000))]);
      if (video.readyState >= HTMLMediaElement.HAVE_FUTURE_DATA) break;
      if (video.error) {
        this.say(video, "This film cannot be shown yet. Trying again …");
        await new Promise((resolve) => setTimeout(resolve, pause));
      }
    }
    this.say(video, video.wanted ? "" : "There is no film of this clip.");
  }

  say(video, text) {
    video.lost.textContent = text;
    video.lost.hidden = !text;
  }

  show(rate) {
    this.shown = true;
    this.element.inert = false;
    this.element.classList.add("shown");
    this.setRate(rate);
    if (!still.matches) this.play();
  }

  hide() {
    this.shown = false;
    this.turn += 1;
    this.element.inert = true;
    this.element.classList.remove("shown");
    this.videos.forEach((video) => video.pause());
  }

  // Stand still without leaving the screen.
  rest() {
    this.turn += 1;
    this.videos.forEach((video) => video.pause());
  }

  // Both from the beginning.
  async play() {
    const turn = ++this.turn;
    await Promise.all(this.videos.map((video) => this.rewind(video)));
    if (turn !== this.turn || !this.shown) return;
    this.setRate(this.rate);
    const started = this.videos.filter((video) => video.readyState >= 2).map((video) => video.play());
    try {
      await Promise.all(started);
    } catch {
      // Left before it began, or this browser plays nothing unasked: Replay is there.
      return;
    }
    if (turn !== this.turn) return;
    this.startedAt ??= performance.now();
    this.follow(turn);
  }

  async rewind(video) {
    video.pause();
    if (video.currentTime === 0 || video.readyState < 1) return;
    const sought = once(video, "seeked", "error", "emptied");
    video.currentTime = 0;
    await sought;
  }

  ended() {
    // Where motion is to be reduced, films play once, when asked.
    if (this.shown && !still.matches && this.videos.every((video) => video.ended || video.readyState < 2)) this.play();
  }

  setRate(rate) {
    this.rate = rate;
    this.videos.forEach((video) => {
      video.playbackRate = rate;
    });
  }

  // Whoever is ahead waits, or runs a little slower, until both are at the same place.
  follow(turn) {
    if (turn !== this.turn || !this.shown) return;
    const [first, second] = this.videos;
    if (!first.ended && !second.ended) {
      const ahead = first.currentTime - second.currentTime;
      this.videos.forEach((video, index) => {
        const lead = index ? -ahead : ahead;
        if (lead > 8 * FRAME) video.pause();
        else if (video.paused && lead < FRAME) video.play().catch(() => {});
        if (lead > FRAME) video.playbackRate = 0.85 * this.rate;
        else if (lead < FRAME / 4) video.playbackRate = this.rate;
      });
    }
    requestAnimationFrame(() => this.follow(turn));
  }

  // Free what the films hold.
  remove() {
    this.gone = true;
    this.turn += 1;
    this.element.remove();
    this.videos.forEach((video) => {
      video.wanted = null;
      video.removeAttribute("src");
      video.load();
    });
  }
}
