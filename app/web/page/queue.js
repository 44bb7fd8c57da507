// The images of this visit: each is uploaded in its turn, and followed until its job is done.

import { ask, askJson, beginJob } from "./service.js";

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const POLL = [150, 1000];  // milliseconds between two questions: more and more, up to the second

/**
 * One image. `state` is waiting, sending, running, done or failed; `progress` is 0 to 1 of it all.
 *
 * `picture` is a bitmap as soon as there is one: the file's own where the browser can decode it, or
 * the service's preview. `job` is what the service says of it.
 */
export class Upload {
  state = "waiting";
  progress = 0;
  job = null;
  problem = null;
  picture = null;
  busy = false;  // the service has no room just now
  #cancel = new AbortController();

  /** `file`: a file, or after a reload of the page what is remembered of it. */
  constructor(file, job = null) {
    this.file = file;
    this.name = file.name || "image";
    this.job = job;
  }

  get id() { return this.job.jobID; }
  get signal() { return this.#cancel.signal; }
  get canRetry() { return this.file instanceof Blob; }
  get ended() { return this.state === "done" || this.state === "failed"; }

  /** Stop it, and have the service forget it. */
  drop() {
    this.#cancel.abort();
    if (this.job) ask(`jobs/${this.id}`, { method: "DELETE" }).catch(() => {});
  }
}

const MEMORY = "images";  // of this tab: its jobs, so that a reload loses none

/** Uploads images one after the other; `changed(image)` is told of all that becomes of each. */
export class Queue {
  images = [];
  #sending = false;

  constructor(changed) { this.changed = changed; }

  /** Go on with the jobs that this tab had before it was loaded again. */
  restore() {
    const remembered = JSON.parse(sessionStorage.getItem(MEMORY) ?? "[]");
    for (const { id, name, size } of remembered) {
      const image = new Upload({ name, size }, { jobID: id, status: "accepted" });
      this.images.push(image);
      this.#set(image, { state: "running" });
      this.#follow(image);
    }
    return this.images;
  }

  #remember() {
    const jobs = this.images.filter(({ job }) => job);
    const entries = jobs.map(({ id, name, file }) => ({ id, name, size: file.size }));
    sessionStorage.setItem(MEMORY, JSON.stringify(entries));
  }

  add(files) {
    const images = [...files].map((file) => new Upload(file));
    this.images.push(...images);
    images.forEach((image) => this.changed(image));
    this.#send();
    return images;
  }

  remove(image) {
    image.drop();
    this.images.splice(this.images.indexOf(image), 1);
    this.#remember();
  }

  /** Try again what failed: `which` tells of each image whether it is meant. */
  retry(which) {
    for (const image of this.images.filter((each) => each.state === "failed" && which(each))) {
      if (!image.canRetry) {
        this.#set(image, { state: "running", problem: null });
        this.#follow(image);
        continue;
      }
      Object.assign(image, { state: "waiting", progress: 0, problem: null, job: null });
      this.changed(image);
    }
    this.#send();
  }

  async #send() {
    if (this.#sending) return;
    this.#sending = true;
    for (let image; (image = this.images.find(({ state }) => state === "waiting"));) {
      await this.#begin(image);
    }
    this.#sending = false;
  }

  async #begin(image) {
    this.#set(image, { state: "sending" });
    image.decoding = this.#decode(image);
    try {
      image.job = await patiently(image, this, () =>
        beginJob(image.file, (share) => this.#set(image, { progress: share / 10 }), image.signal));
      this.#remember();
      this.#set(image, { state: "running" });
      this.#follow(image);
    } catch (error) {
      this.#fail(image, error);
    }
  }

  /** Show a file's own pixels at once: as it stores them, which is how the service reads them. */
  async #decode(image) {
    const bitmap = await createImageBitmap(image.file, { imageOrientation: "none" }).catch(() => null);
    if (bitmap && !image.picture) this.#set(image, { picture: bitmap });
  }

  async #follow(image) {
    const asking = { signal: image.signal };
    try {
      if (!image.job.image) image.job = await patiently(image, this, () => askJson(`jobs/${image.id}`, asking));
      const preview = this.#preview(image, asking);
      preview.catch(() => {});  // it is awaited below
      for (let wait = POLL[0]; image.job.status === "accepted" || image.job.status === "running";) {
        await sleep(wait);
        wait = Math.min(wait * 1.1, POLL[1]);
        const job = await patiently(image, this, () => askJson(`jobs/${image.id}`, asking));
        this.#set(image, { job, progress: 0.1 + 0.9 * (job.progress ?? 0) / 100 });
      }
      if (image.job.status !== "successful") await ask(`jobs/${image.id}/results`, asking);
      await preview;
      this.#set(image, { state: "done", progress: 1 });
    } catch (error) {
      this.#fail(image, error);
    }
  }

  /** Get the service's preview where the browser has no picture, or one of another size. */
  async #preview(image, asking) {
    await image.decoding;
    const { width, height } = image.job.image;
    if (image.picture?.width === width && image.picture.height === height) return;
    const answer = await patiently(image, this, () => ask(`jobs/${image.id}/preview`, asking));
    this.#set(image, { picture: await createImageBitmap(await answer.blob()) });
  }

  #fail(image, error) {
    if (error.name !== "AbortError") this.#set(image, { state: "failed", problem: error });
  }

  #set(image, values) {
    Object.assign(image, values);
    this.changed(image);
  }
}

/** Do as `work` does, again and again while the service asks to wait. */
async function patiently(image, queue, work) {
  for (;;) {
    try {
      const result = await work();
      image.busy = false;
      return result;
    } catch (error) {
      if (!error.wait || image.signal.aborted) throw error;
      image.busy = true;
      queue.changed(image);
      await sleep(1000 * error.wait);
    }
  }
}
