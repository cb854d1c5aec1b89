/**
 * Everything that lives longer than a call starts and stops the same way. `start` resolves when the service does its
 * work; `stop` may be called at any time, more than once, and resolves when nothing of the service runs any more.
 */
export interface Service {
  readonly name: string;
  start(): Promise<void>;
  stop(): Promise<void>;
}

/**
 * Starts services in order and stops them in reverse. When one fails to start, those before it are stopped and the
 * failure is thrown. A failure to stop does not keep the others from stopping; the first one is thrown at the end.
 */
export class ServiceGroup implements Service {
  readonly #services: Service[] = [];
  #started: Service[] = [];
  #stopping: Promise<void> | undefined;

  constructor(readonly name: string) {}

  add<S extends Service>(service: S): S {
    this.#services.push(service);
    return service;
  }

  async start(): Promise<void> {
    try {
      for (const service of this.#services) await this.run(service);
    } catch (error) {
      await this.stop().catch(() => undefined);
      throw error;
    }
  }

  /** Starts one more service on top of the running ones; it is stopped before them. */
  async run<S extends Service>(service: S): Promise<S> {
    this.#started.push(service);
    await service.start();
    return service;
  }

  stop(): Promise<void> {
    this.#stopping ??= this.#stopAll();
    return this.#stopping;
  }

  async #stopAll(): Promise<void> {
    let failure: unknown;
    for (const service of this.#started.reverse()) {
      try {
        await service.stop();
      } catch (error) {
        failure ??= error;
      }
    }
    this.#started = [];
    if (failure !== undefined) throw failure;
  }
}
