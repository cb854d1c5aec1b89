import { MeshError } from './errors.js';

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
 * Starts services in order and stops them in reverse. When one fails to start, it and those before it are stopped and the
 * failure is thrown. A stop during a start starts no more. A failure
 * to stop does not keep the others from stopping; the first one is thrown at the end.
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

  /**
   * Starts one more service on top of the running ones; it is stopped before them.
   * @throws MeshError INTERRUPTED when the group is stopping
   */
  async run<S extends Service>(service: S): Promise<S> {
    if (this.#stopping) throw new MeshError('INTERRUPTED', `${this.name} was stopped before ${service.name} started`);
    this.#started.push(service);
    await service.start();
    if (this.#stopping) {
      // It got ready after it was stopped.
      await service.stop();
      throw new MeshError('INTERRUPTED', `${this.name} was stopped while ${service.name} started`);
    }
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
