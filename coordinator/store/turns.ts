/**
 * Who may write tasks at a time. Assign and settle touch different tasks and share; whatever may meet them on the same
 * rows (cancel, adopt, mark running) has its turn alone, because PostgreSQL would find the deadlock that two orders of
 * row locks make only after a second. One leader writes, so turns within this process are enough; the epoch guards the
 * rest.
 */
export class Turns {
  #sharing = 0;
  #alone = false;
  /** First come, first served: one that wants to be alone is not passed by later ones that share. */
  readonly #waiting: { alone: boolean; go: () => void }[] = [];

  share<T>(work: () => Promise<T>): Promise<T> {
    return this.#take(false, work);
  }

  alone<T>(work: () => Promise<T>): Promise<T> {
    return this.#take(true, work);
  }

  async #take<T>(alone: boolean, work: () => Promise<T>): Promise<T> {
    if (this.#waiting.length > 0 || this.#alone || (alone && this.#sharing > 0))
      await new Promise<void>((go) => this.#waiting.push({ alone, go }));
    else this.#enter(alone);
    try {
      return await work();
    } finally {
      this.#leave(alone);
    }
  }

  #enter(alone: boolean): void {
    if (alone) this.#alone = true;
    else this.#sharing++;
  }

  #leave(alone: boolean): void {
    if (alone) this.#alone = false;
    else this.#sharing--;
    for (let next = this.#waiting[0]; next; next = this.#waiting[0]) {
      if (this.#alone || (next.alone && this.#sharing > 0)) return;
      this.#waiting.shift();
      this.#enter(next.alone);
      next.go();
    }
  }
}
