/*
 * Starts processes for the agent, so that the agent, which is large and busy, neither forks nor waits for a fork.
 *
 * One small process of a single thread. Commands come on descriptor 0, reports go to descriptor 1, both in frames of
 * a length (4 bytes), a type (1) and a body; whole numbers are in the order of the machine, texts end with a NUL byte. It
 * believes what it is told: only the agent holds the other end.
 *
 * Every process it starts gets a session of its own, empty input, pipes for its output, default signals, no descriptor
 * but those it is given, and is killed by the kernel when this program ends. When one ends, its group is killed while its
 * number still belongs to it, and only then is it waited for; so signals to a group are sent here, where its number is
 * certain. When the agent closes its end, all groups are killed.
 *
 * Commands of one chain run one after the other, the next at the moment in which nothing of the one before it is left: the
 * agent gives several at a time and hears of their ends together. Where something is left, what has not begun goes back.
 *
 * What a process is before it is its command touches nothing of this program's memory but the code and its own START frame. It
 * shares that memory while nobody could read it there (`may_share`), which copies nothing and keeps nobody waiting; where somebody
 * could, it is a fork that has no more than it touches (MADV_DONTFORK).
 *
 * Memory is bounded: output is read from a pipe only while less than OUT_HIGH bytes wait for the agent (and once more when
 * the agent gives it up), and not at all from one that the agent has paused; the writer waits then, as on any pipe.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <linux/openat2.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>
#if defined(__has_include) && __has_include(<sys/rseq.h>)
#include <sys/rseq.h>
#endif

enum { IN = 0, OUT = 1 };
/* Frames of the agent, and to it. */
enum { START = 1, ASK = 2, PAUSE = 3, RESUME = 4, CLOSE = 5, SIGNAL = 6, DROP = 7 };
enum { PID = 1, DATA = 2, EXIT = 3, CLOSED = 4, DROPPED = 5 };
/* What did not work, when a process could not be started. */
enum { STEP_DIRECTORY = 1, STEP_PROCESS = 2, STEP_COMMAND = 3 };
/* Bits of an EXIT frame, and of a START frame. */
enum { BIT_CLOSED = 1, BIT_PRISTINE = 2, BIT_ASIDE = 4 };
enum { WITH_USER = 1, WITH_DIRECTORY = 2, WITH_REPORT = 4, WITH_WORDS = 8, MAKE_DIRECTORY = 16 };
enum {
  NOT_BEGUN = 127,        /* exit code of a child that did not become its command; commands may have it, too */
  STREAMS = 3,            /* output, errors, and what a launcher reports on descriptor 3 */
  RESERVED = 10,          /* descriptors below are never pipes, so that none is in the way of another */
  OUT_HIGH = 256 << 10,
  READ_BYTES = 64 << 10,
  READS_AT_END = 4,
  TURNS = 64,             /* pieces of output before ends and commands are looked at again */
  FRAME_MAX = 8 << 20,
  IN_KEPT = 256 << 10,
  BUCKETS = 1024,
  TELL_AFTER_MS = 50,
  WATCH_AFTER_MS = 5,     /* most of a chain have ended by then, and each pipe that closes would wake us */
  GATHER_MS = 100,         /* what the agent need not know at once waits for more of its kind */
  LIMITS_MAX = 8,
  GIVEN_BYTES = 32 << 10, /* of a process that is about to start; what needs more gets memory of its own */
  SHARED_MOST = 8,        /* processes about to start that share memory; others are forks, so that stopped ones stop nobody */
  CHILD_STACK = 2 << 10,
  PAGE_MOST = 64 << 10, /* as large as pages are anywhere */
};

struct task {
  uint32_t id;
  pid_t pid;
  int streams[STREAMS]; /* -1 when closed */
  bool paused[STREAMS];
  bool told, exited;
  bool watched; /* its streams are in the epoll, but for paused ones */
  uint32_t chain; /* 0: none */
  uint64_t started_ns;
  char *directory; /* to be looked at in the end; NULL for one that is not ours */
  bool aside;      /* the one it was given was not as it was made, and a new one took its place */
  int error;       /* why it could not become its command */
  uid_t uid;
  struct task *next; /* in its bucket */
};

/* A START frame that waits for the one before it. */
struct queued {
  struct queued *next;
  size_t length;
  char body[];
};

/* There is one while a command of it runs. */
struct chain {
  uint32_t id;
  struct queued *first, **last;
  struct chain *next;
};

static struct task *buckets[BUCKETS];
static struct chain *chains;
static unsigned running, untold, unwatched;
/* When what waits for the agent is to be sent; 0 when nothing waits. */
static uint64_t send_ns;
static int main_epoll, data_epoll, signals, null_fd, suid_dumpable_fd;
static bool out_waits, data_waits;
/* A child that could not become its command writes its id and the error number there. */
static int refusals[2];
/* As far as the heap is kept from children; NULL where nothing is. */
static char *heap_end;

static struct {
  char *bytes;
  size_t from, to, size;
} in, out;

static void die(void) {
  for (int i = 0; i < BUCKETS; i++)
    for (struct task *task = buckets[i]; task; task = task->next)
      if (!task->exited) kill(-task->pid, SIGKILL);
  _exit(0);
}

static uint64_t now_ns(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* ---- frames to the agent ---- */

static char *room(size_t bytes) {
  if (out.from == out.to) out.from = out.to = 0;
  if (out.to + bytes > out.size) {
    memmove(out.bytes, out.bytes + out.from, out.to - out.from);
    out.to -= out.from;
    out.from = 0;
    if (out.to + bytes > out.size) {
      out.size = out.to + bytes + OUT_HIGH;
      out.bytes = realloc(out.bytes, out.size);
      if (!out.bytes) die();
    }
  }
  return out.bytes + out.to;
}

static void put(const void *bytes, size_t length) {
  memcpy(room(length), bytes, length);
  out.to += length;
}

/* @param wait_ms how long the agent can do without it */
static void put_head(uint32_t length, uint8_t type, uint32_t id, unsigned wait_ms) {
  uint64_t due_ns = wait_ms ? now_ns() + (uint64_t)wait_ms * 1000000u : 1;
  if (send_ns == 0 || due_ns < send_ns) send_ns = due_ns;
  room(9 + length);
  length += 5;
  put(&length, 4);
  put(&type, 1);
  put(&id, 4);
}

static void watch_out(bool waits) {
  if (waits == out_waits) return;
  struct epoll_event event = {.events = waits ? EPOLLOUT : 0, .data.fd = OUT};
  epoll_ctl(main_epoll, EPOLL_CTL_MOD, OUT, &event);
  out_waits = waits;
}

static void flush(void) {
  if (send_ns > 1 && !out_waits && out.to - out.from < OUT_HIGH / 2 && now_ns() < send_ns) return;
  send_ns = 0;
  while (out.from < out.to) {
    ssize_t sent = send(OUT, out.bytes + out.from, out.to - out.from, MSG_NOSIGNAL);
    if (sent < 0 && errno == EINTR) continue;
    if (sent < 0 && errno != EAGAIN) die();
    if (sent < 0) break;
    out.from += (size_t)sent;
  }
  watch_out(out.from < out.to);
}

/* ---- tasks ---- */

static struct task *find(uint32_t id) {
  struct task *task = buckets[id % BUCKETS];
  while (task && task->id != id) task = task->next;
  return task;
}

static void forget(struct task *task) {
  struct task **at = &buckets[task->id % BUCKETS];
  while (*at != task) at = &(*at)->next;
  *at = task->next;
  free(task->directory);
  free(task);
  running--;
}

static void tell_pid(struct task *task) {
  if (task->told || task->exited) return;
  task->told = true;
  untold--;
  uint32_t body[2] = {(uint32_t)task->pid, (uint32_t)((now_ns() - task->started_ns) / 1000000u)};
  put_head(sizeof body, PID, task->id, 0);
  put(body, sizeof body);
}

static bool all_closed(const struct task *task) {
  for (int i = 0; i < STREAMS; i++)
    if (task->streams[i] >= 0) return false;
  return true;
}

/* Closing alone leaves it in the epoll while a child that is not yet its command has a copy. */
static void close_stream(struct task *task, int stream) {
  if (task->streams[stream] < 0) return;
  if (task->watched && !task->paused[stream]) epoll_ctl(data_epoll, EPOLL_CTL_DEL, task->streams[stream], NULL);
  close(task->streams[stream]);
  task->streams[stream] = -1;
}

static void settle(struct task *task) {
  if (!task->exited || !all_closed(task)) return;
  put_head(0, CLOSED, task->id, 0);
  forget(task);
}

/* One piece of output. False when there is no more for now. */
static bool pass_on(struct task *task, int stream) {
  char *to = room(10 + READ_BYTES);
  ssize_t got = read(task->streams[stream], to + 10, READ_BYTES);
  if (got < 0) return errno == EINTR;
  if (got == 0) {
    close_stream(task, stream);
    return false;
  }
  put_head((uint32_t)got + 1, DATA, task->id, task->chain && !task->told ? GATHER_MS : 0);
  out.bytes[out.to] = (char)stream;
  out.to += 1 + (size_t)got;
  return true;
}

static void watch_stream(struct task *task, int stream, int operation) {
  struct epoll_event event = {.events = EPOLLIN, .data.u64 = (uint64_t)task->id << 2 | (unsigned)stream};
  epoll_ctl(data_epoll, operation, task->streams[stream], &event);
}

static void watch_task(struct task *task) {
  if (task->watched) return;
  task->watched = true;
  unwatched--;
  for (int i = 0; i < STREAMS; i++)
    if (task->streams[i] >= 0) watch_stream(task, i, EPOLL_CTL_ADD);
}

static void watch_data(void) {
  bool waits = out.to - out.from >= OUT_HIGH;
  if (waits == data_waits) return;
  struct epoll_event event = {.events = EPOLLIN, .data.fd = data_epoll};
  epoll_ctl(main_epoll, waits ? EPOLL_CTL_DEL : EPOLL_CTL_ADD, data_epoll, &event);
  data_waits = waits;
}

/* One event at a time: the kernel puts what it returned behind all others, so each has its turn however much the rest write. */
static void read_streams(void) {
  struct epoll_event event;
  for (int i = 0; i < TURNS && out.to - out.from < OUT_HIGH; i++) {
    if (epoll_wait(data_epoll, &event, 1, 0) != 1) return;
    struct task *task = find((uint32_t)(event.data.u64 >> 2));
    int stream = (int)(event.data.u64 & 3);
    if (!task || task->streams[stream] < 0) continue;
    pass_on(task, stream);
    settle(task);
  }
}

static void report_exit(uint32_t id, pid_t pid, int status, uint32_t step, int error, uint64_t run_us, uint32_t bits,
                        unsigned wait_ms) {
  uint32_t body[7] = {(uint32_t)status, step, (uint32_t)error, (uint32_t)run_us, (uint32_t)(run_us >> 32), bits,
                      (uint32_t)pid};
  put_head(sizeof body, EXIT, id, wait_ms);
  put(body, sizeof body);
}

/* Opens a directory of ours, if nothing was put in its place: what somebody mounted there could make us wait for them. */
static int open_private(const char *path) {
  char parent[PATH_MAX];
  const char *slash = strrchr(path, '/');
  if (!slash || (size_t)(slash - path) >= sizeof parent) return -1;
  memcpy(parent, path, (size_t)(slash - path));
  parent[slash - path] = 0;
  int above = open(slash == path ? "/" : parent, O_PATH | O_DIRECTORY | O_CLOEXEC);
  if (above < 0) return -1;
  struct open_how how = {.flags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC, .resolve = RESOLVE_NO_XDEV};
  int fd = (int)syscall(SYS_openat2, above, slash + 1, &how, sizeof how);
  close(above);
  return fd;
}

/* Empty, its user's alone, and without anything that could be hung on it: the next one may have it. */
static bool pristine(const char *path, uid_t uid) {
  int fd = open_private(path);
  if (fd < 0) return false;
  struct stat status;
  char entries[1024], names[1024];
  bool clean = fstat(fd, &status) == 0 && status.st_mode == (S_IFDIR | 0700) && status.st_uid == uid;
  for (long got = 1; clean && got > 0;) {
    got = syscall(SYS_getdents64, fd, entries, sizeof entries);
    if (got < 0) clean = false;
    for (long at = 0; at < got;) {
      struct dirent64 *entry = (struct dirent64 *)(void *)(entries + at);
      if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0) clean = false;
      at += entry->d_reclen;
    }
  }
  /* What the system itself puts there (security.*) is no task's doing. */
  ssize_t listed = clean ? flistxattr(fd, names, sizeof names) : 0;
  if (listed < 0 && errno != ENOTSUP) clean = false;
  for (ssize_t at = 0; at < listed; at += (ssize_t)strlen(names + at) + 1)
    if (strncmp(names + at, "security.", 9) != 0) clean = false;
  close(fd);
  return clean;
}

/* ---- chains ---- */

static struct chain **find_chain(uint32_t id) {
  struct chain **at = &chains;
  while (*at && (*at)->id != id) at = &(*at)->next;
  return at;
}

static void drop(struct queued **at, struct chain *chain) {
  struct queued *queued = *at;
  uint32_t id;
  memcpy(&id, queued->body, sizeof id);
  put_head(0, DROPPED, id, 0);
  *at = queued->next;
  if (!*at) chain->last = at;
  free(queued);
}

static bool drop_waiting(uint32_t id) {
  for (struct chain *chain = chains; chain; chain = chain->next)
    for (struct queued **at = &chain->first; *at; at = &(*at)->next)
      if (memcmp((*at)->body, &id, sizeof id) == 0) return drop(at, chain), true;
  return false;
}

static bool start(char *body, size_t length, bool more);

/* What comes after one that has ended, or that did not start. */
static void go_on(uint32_t id, bool clean) {
  struct chain **at = find_chain(id), *chain = *at;
  while (chain->first && !clean) drop(&chain->first, chain);
  while (chain->first) {
    struct queued *queued = chain->first;
    chain->first = queued->next;
    if (!chain->first) chain->last = &chain->first;
    bool runs = start(queued->body, queued->length, chain->first != NULL);
    free(queued);
    if (runs) return;
  }
  *at = chain->next;
  free(chain);
}

static void hear_refusals(void) {
  uint32_t refusal[2];
  while (read(refusals[0], refusal, sizeof refusal) == sizeof refusal) {
    struct task *task = find(refusal[0]);
    if (task) task->error = (int)refusal[1];
  }
}

static void ended(struct task *task, int status) {
  uint64_t run_us = (now_ns() - task->started_ns) / 1000;
  task->exited = true;
  if (!task->told) untold--;
  for (int i = 0; i < STREAMS; i++)
    for (int reads = 0; reads < READS_AT_END && task->streams[i] >= 0 && !task->paused[i]; reads++)
      if (out.to - out.from >= OUT_HIGH || !pass_on(task, i)) break;
  if (WIFEXITED(status) && WEXITSTATUS(status) == NOT_BEGUN) hear_refusals();
  int error = task->error;
  bool closed = all_closed(task);
  if (closed && !task->watched) unwatched--;
  if (!closed) watch_task(task);
  /* Killed is not yet gone: one that is still in a system call could finish it. */
  bool alone = kill(-task->pid, 0) != 0 && errno == ESRCH;
  uint32_t chain = task->chain;
  bool more = chain && (*find_chain(chain))->first && closed && alone;
  /* Who comes next looks at the directory before. */
  bool clean = !more && closed && alone && task->directory && pristine(task->directory, task->uid);
  uint32_t bits = (closed ? BIT_CLOSED : 0) | (clean ? BIT_PRISTINE : 0) | (task->aside ? BIT_ASIDE : 0);
  bool urgent = !more || task->told;
  report_exit(task->id, task->pid, status, error ? STEP_COMMAND : 0, error, run_us, bits, urgent ? 0 : GATHER_MS);
  if (closed) forget(task);
  if (chain) go_on(chain, closed && alone);
}

static void reap(void) {
  struct signalfd_siginfo info[8];
  while (read(signals, info, sizeof info) > 0);
  for (;;) {
    siginfo_t child = {0};
    if (waitid(P_ALL, 0, &child, WEXITED | WNOHANG | WNOWAIT) != 0 || child.si_pid == 0) return;
    /* Its number, and so that of its group, is its own until it has been waited for. */
    kill(-child.si_pid, SIGKILL);
    int status = 0;
    waitpid(child.si_pid, &status, 0);
    struct task *found = NULL;
    for (int i = 0; i < BUCKETS && !found; i++)
      for (struct task *task = buckets[i]; task; task = task->next)
        if (task->pid == child.si_pid && !task->exited) {
          found = task;
          break;
        }
    if (found) ended(found, status);
  }
}

/* ---- frames of the agent ---- */

struct start {
  uint32_t id, flags, uid, gid, limits, arguments, variables, words, chain;
};

struct limit { uint32_t resource, unused; uint64_t soft, hard; };

/* All that a child has until it is its command. It runs on the stack in here; the texts of its frame come behind. */
static struct given {
  char stack[CHILD_STACK];
  /* One that shares memory uses it: the system writes 0 when that process has become its command, or ended. */
  int taken;
  struct start start;
  pid_t parent;
  int null_fd, refusals, pipes[4];
  char shell[sizeof "/bin/sh"];
  const char *directory;
  /* Where the command may be, and what it is given; a free pointer comes before the arguments. */
  char **paths, **argv, **envp;
  struct limit limits[LIMITS_MAX];
  char room[GIVEN_BYTES] __attribute__((aligned(sizeof(char *))));
} __attribute__((aligned(PAGE_MOST))) given, shared[SHARED_MOST];

/* Where `execvp` looks when a process has no PATH. */
static const char SEARCH[] = "/bin:/usr/bin";

/*
 * A system call that touches no memory of the library, which a child has not: its error number, negative, in place of errno.
 */
#if defined(__x86_64__)
#define LEAN 1
static inline long call(long number, long a, long b, long c, long d) {
  register long fourth __asm__("r10") = d;
  __asm__ volatile("syscall" : "+a"(number) : "D"(a), "S"(b), "d"(c), "r"(fourth) : "rcx", "r11", "memory");
  return number;
}
#elif defined(__aarch64__)
#define LEAN 1
static inline long call(long number, long a, long b, long c, long d) {
  register long x8 __asm__("x8") = number, x0 __asm__("x0") = a, x1 __asm__("x1") = b;
  register long x2 __asm__("x2") = c, x3 __asm__("x3") = d;
  __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3) : "memory");
  return x0;
}
#else
#define LEAN 0
static inline long call(long number, long a, long b, long c, long d) {
  long result = syscall(number, a, b, c, d);
  return result == -1 ? -errno : result;
}
#endif
/* No check of the stack: what it compares with is in the library's memory. */
#if defined(__has_attribute) && __has_attribute(no_stack_protector)
#define BARE __attribute__((no_stack_protector))
#else
#define BARE __attribute__((optimize("no-stack-protector")))
#endif
/* Where processors had users of 16 bits once. */
#ifdef SYS_setuid32
enum { SET_GROUPS = SYS_setgroups32, SET_GID = SYS_setgid32, SET_UID = SYS_setuid32 };
#else
enum { SET_GROUPS = SYS_setgroups, SET_GID = SYS_setgid, SET_UID = SYS_setuid };
#endif

BARE static void limit_child(const struct given *to) {
  for (uint32_t i = 0; i < to->start.limits; i++) {
    /* The system's own format is that of the frame. */
    uint64_t now[2], wanted[2] = {to->limits[i].soft, to->limits[i].hard};
    long resource = (long)to->limits[i].resource;
    /* One that is beyond what is there already is no limit. */
    if (call(SYS_prlimit64, 0, resource, 0, (long)now) != 0 || wanted[0] > now[1]) continue;
    if (wanted[1] > now[1]) wanted[1] = now[1];
    call(SYS_prlimit64, 0, resource, (long)wanted, 0);
  }
}

/* As `execvp` goes on after one that could not be executed; a script without a first line to say so is for the shell. */
BARE static long execute(const struct given *to) {
  long error = ENOENT;
  bool denied = false;
  for (char **path = to->paths; *path; path++) {
    error = -call(SYS_execve, (long)*path, (long)to->argv, (long)to->envp, 0);
    if (error == ENOEXEC) {
      char **argv = to->argv - 1;
      argv[0] = to->paths[-1];
      argv[1] = *path;
      error = -call(SYS_execve, (long)argv[0], (long)argv, (long)to->envp, 0);
    }
    if (error == EACCES) denied = true;
    else if (error != ENOENT && error != ESTALE && error != ENOTDIR && error != ENODEV && error != ETIMEDOUT) return error;
  }
  return denied ? EACCES : error;
}

/* In the child, until it is the command. It uses no memory but the code and what is given. Never returns. */
BARE static int become(void *argument) {
  const struct given *to = argument;
  const struct start *start = &to->start;
  call(SYS_setsid, 0, 0, 0, 0);
  call(SYS_dup3, to->null_fd, 0, 0, 0);
  call(SYS_dup3, to->pipes[0], 1, 0, 0);
  call(SYS_dup3, to->pipes[1], 2, 0, 0);
  int next = 3;
  for (int i = 2; i < 4; i++)
    if (to->pipes[i] >= 0) call(SYS_dup3, to->pipes[i], next++, 0, 0);
  limit_child(to);
  long error = -call(SYS_chdir, (long)to->directory, 0, 0, 0);
  if (!error && start->flags & WITH_USER) {
    error = -call(SET_GROUPS, 0, 0, 0, 0);
    if (!error) error = -call(SET_GID, (long)start->gid, 0, 0, 0);
    if (!error) error = -call(SET_UID, (long)start->uid, 0, 0, 0);
  }
  /* After the change of user, which undoes both. */
  call(SYS_prctl, PR_SET_DUMPABLE, 0, 0, 0);
  call(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL, 0, 0);
  if (call(SYS_getppid, 0, 0, 0, 0) != to->parent) call(SYS_exit_group, NOT_BEGUN, 0, 0, 0);
  uint64_t none[2] = {0, 0};
  call(SYS_rt_sigprocmask, SIG_SETMASK, (long)none, 0, _NSIG / 8);
  if (!error) error = execute(to);
  uint32_t refusal[2] = {start->id, (uint32_t)error};
  call(SYS_write, to->refusals, (long)refusal, sizeof refusal, 0);
  call(SYS_exit_group, NOT_BEGUN, 0, 0, 0);
  __builtin_unreachable();
}

/* Data that is there before the process is. A user with many pipes gets small ones; that is not the task's fault. */
static int fill(int *ends, const char *words, uint32_t length) {
  if (pipe2(ends, O_CLOEXEC) != 0) return errno;
  if (fcntl(ends[1], F_GETPIPE_SZ) < (int)length && fcntl(ends[1], F_SETPIPE_SZ, (int)length) < 0) return EAGAIN;
  fcntl(ends[1], F_SETFL, O_NONBLOCK);
  return write(ends[1], words, length) == (ssize_t)length ? 0 : EAGAIN;
}

/* For the agent to remove; it knows under which name. */
static bool put_aside(const char *directory, uint32_t id) {
  char aside[PATH_MAX];
  int length = snprintf(aside, sizeof aside, "%s.%u.aside", directory, id);
  errno = ENAMETOOLONG;
  if (length < 0 || (size_t)length >= sizeof aside) return false;
  return rename(directory, aside) == 0;
}

/* An error number, or 0 when the directory, one that is ours, is as it is made. */
static int ready(const char *directory, const struct start *head, uid_t uid, bool *aside) {
  if (!(head->flags & MAKE_DIRECTORY)) {
    /* It lay about since it was looked at, and others may run as the same user. */
    if (pristine(directory, uid)) return 0;
    *aside = put_aside(directory, head->id);
    if (!*aside && errno != ENOENT) return errno;
  }
  if (mkdir(directory, 0700) != 0) return errno;
  return head->flags & WITH_USER && lchown(directory, uid, head->gid) != 0 ? errno : 0;
}

/* What it has grown by, as all that was there at the start. */
static void keep_heap(void) {
  char *end = sbrk(0);
  if (!heap_end || end == heap_end) return;
  char *from = (char *)((uintptr_t)heap_end & ~(uintptr_t)(PAGE_MOST - 1));
  if (end > heap_end) madvise(from, (size_t)(end - from), MADV_DONTFORK);
  heap_end = end;
}

static void shut(int fd) {
  if (fd >= 0) close(fd);
}

/* Cuts the next text off, for the child to point to. */
static char *next_text(char **at, const char *end) {
  char *text = *at;
  if (text >= end) die();
  *at += strlen(text) + 1;
  return text;
}

/* Where a command without a slash in its name may be; `names` has room for all of them. Returns behind the last pointer. */
static char **search(const char *name, const char *path, char **to, char *names) {
  for (const char *end = path; *end; path = end + 1) {
    end = strchrnul(path, ':');
    *to++ = names;
    if (end > path) names = mempcpy(names, path, (size_t)(end - path)), *names++ = '/';
    names = stpcpy(names, name) + 1;
  }
  return to;
}

/* How much there is to give to one that starts. */
struct extent {
  const char *texts;
  size_t bytes, parts, pointers, needed;
};

static struct extent extent_of(const char *body, size_t length, const struct start *head) {
  const char *texts = body + sizeof *head + head->limits * sizeof(struct limit);
  size_t bytes = length - (size_t)(texts - body) - head->words;
  /* The names of `search` are, together, shorter than all texts for each part of a path that is among them, or the system's. */
  size_t parts = 2, most = bytes + sizeof SEARCH;
  for (size_t i = 0; i < bytes; i++) parts += texts[i] == ':';
  size_t pointers = parts + head->arguments + head->variables + 5;
  const char *name = texts + strlen(texts) + 1;
  size_t names = strchr(name, '/') ? 0 : most + parts * (strlen(name) + 2);
  return (struct extent){texts, bytes, parts, pointers, pointers * sizeof(char *) + bytes + names};
}

/* @param at for pointers and texts, as large as the extent needs */
static void give(struct given *to, char **at, struct extent extent, const char *body, const int *pipes) {
  memcpy(&to->start, body, sizeof to->start);
  const struct start *head = &to->start;
  char *text = (char *)(at + extent.pointers), *end = text + extent.bytes;
  memcpy(text, extent.texts, extent.bytes);
  memcpy(to->limits, body + sizeof *head, head->limits * sizeof(struct limit));
  memcpy(to->pipes, pipes, sizeof to->pipes);
  to->directory = next_text(&text, end);
  *at++ = to->shell;
  to->paths = at;
  char **paths = at;
  at += extent.parts;
  *at++ = NULL;
  at++;
  to->argv = at;
  for (uint32_t i = 0; i < head->arguments; i++) *at++ = next_text(&text, end);
  *at++ = NULL;
  to->envp = at;
  const char *path = SEARCH;
  for (uint32_t i = 0; i < head->variables; i++) {
    *at = next_text(&text, end);
    if (strncmp(*at, "PATH=", 5) == 0) path = *at + 5;
    at++;
  }
  *at = NULL;
  if (strchr(to->argv[0], '/')) *paths++ = to->argv[0];
  else if (*to->argv[0]) paths = search(to->argv[0], path, paths, end);
  *paths = NULL;
}

/* The system refused to let a child share memory. */
static bool unshared = false;

/*
 * Whether memory stays what only this program reads while a process of that user has it, too. A change of user sets what the
 * system says (fs.suid_dumpable) in place of the 0 of `prepare`; with 1, others of that user could look in for a moment.
 */
static bool may_share(const struct start *head) {
  if (!LEAN || unshared) return false;
  if (!(head->flags & WITH_USER)) return true;
  char value = 0;
  return pread(suid_dumpable_fd, &value, 1, 0) == 1 && (value == '0' || value == '2');
}

static struct given *free_shared(void) {
  for (int i = 0; i < SHARED_MOST; i++)
    if (__atomic_load_n(&shared[i].taken, __ATOMIC_ACQUIRE) == 0) return &shared[i];
  return NULL;
}

/*
 * The number of the new process, or -1. One that shares memory is not waited for, as `vfork` would: between its change of user and its
 * command, another task of that user may stop it for as long as it likes.
 */
static pid_t begin(const char *body, size_t length, const struct start *head, const int *pipes) {
  struct extent extent = extent_of(body, length, head);
  bool fits = extent.needed <= GIVEN_BYTES;
  struct given *to = fits && may_share(head) ? free_shared() : NULL;
  if (to) {
    give(to, (char **)(void *)to->room, extent, body, pipes);
    to->taken = 1;
    int how = CLONE_VM | CLONE_CHILD_CLEARTID | SIGCHLD;
    pid_t pid = clone(become, to->stack + sizeof to->stack, how, to, NULL, NULL, &to->taken);
    if (pid >= 0) return pid;
    to->taken = 0;
    /* Not every system that is like Linux does this. */
    if (errno != EINVAL) return pid;
    unshared = true;
  }
  void *own = given.room;
  if (!fits) own = mmap(NULL, extent.needed, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (own == MAP_FAILED) die();
  give(&given, own, extent, body, pipes);
  keep_heap();
  pid_t pid = clone(become, given.stack + sizeof given.stack, SIGCHLD, &given);
  int error = errno;
  if (!fits) munmap(own, extent.needed);
  errno = error;
  return pid;
}

/*
 * Texts follow the head: the directory, arguments, variables, and then the words as they are. True when it runs.
 * @param more whether another of its chain comes after it
 */
static bool start(char *body, size_t length, bool more) {
  struct start head;
  memcpy(&head, body, sizeof head);
  size_t at = sizeof head;
  if (head.limits > LIMITS_MAX || head.words > length || head.arguments == 0) die();
  at += head.limits * sizeof(struct limit);
  const char *directory = body + at;
  at += strlen(directory) + 1;
  struct task *task = calloc(1, sizeof *task);
  if (!task) die();

  uint32_t step = 0;
  int error = 0;
  int reading[STREAMS] = {-1, -1, -1}, writing[4] = {-1, -1, -1, -1};
  task->uid = head.flags & WITH_USER ? head.uid : geteuid();
  if (head.flags & WITH_DIRECTORY) error = ready(directory, &head, task->uid, &task->aside);
  if (error) step = STEP_DIRECTORY;
  for (int i = 0; i < (head.flags & WITH_REPORT ? STREAMS : STREAMS - 1) && !error; i++) {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0) {
      error = errno, step = STEP_PROCESS;
      break;
    }
    fcntl(ends[0], F_SETFL, O_NONBLOCK);
    reading[i] = ends[0];
    writing[i] = ends[1];
  }
  int words[2] = {-1, -1};
  if (!error && head.flags & WITH_WORDS) {
    error = fill(words, body + length - head.words, head.words);
    if (error) step = STEP_PROCESS;
    writing[3] = words[0];
  }
  pid_t pid = -1;
  if (!error) {
    task->started_ns = now_ns();
    pid = begin(body, length, &head, writing);
    if (pid < 0) error = errno, step = STEP_PROCESS;
  }
  for (int i = 0; i < 4; i++) shut(writing[i]);
  shut(words[1]);
  if (error) {
    for (int i = 0; i < STREAMS; i++) shut(reading[i]);
    uint32_t bits = BIT_CLOSED | (task->aside ? BIT_ASIDE : 0);
    report_exit(head.id, 0, 0, step, error, 0, bits, more ? GATHER_MS : 0);
    free(task);
    return false;
  }
  task->id = head.id;
  task->pid = pid;
  task->chain = head.chain;
  task->directory = head.flags & WITH_DIRECTORY ? strdup(directory) : NULL;
  task->next = buckets[head.id % BUCKETS];
  buckets[head.id % BUCKETS] = task;
  running++;
  untold++;
  for (int i = 0; i < STREAMS; i++) task->streams[i] = reading[i];
  unwatched++;
  if (!task->chain) watch_task(task);
  return true;
}

/* Starts it, or has it wait for those of its chain. */
static void take(char *body, size_t length) {
  struct start head;
  memcpy(&head, body, sizeof head);
  if (!head.chain) {
    start(body, length, false);
    return;
  }
  struct chain *chain = *find_chain(head.chain);
  if (!chain) {
    chain = calloc(1, sizeof *chain);
    if (!chain) die();
    chain->id = head.chain;
    chain->last = &chain->first;
    chain->next = chains;
    chains = chain;
    if (!start(body, length, false)) go_on(head.chain, true);
    return;
  }
  struct queued *queued = malloc(sizeof *queued + length);
  if (!queued) die();
  queued->next = NULL;
  queued->length = length;
  memcpy(queued->body, body, length);
  *chain->last = queued;
  chain->last = &queued->next;
}

static void obey(uint8_t type, char *body, size_t length) {
  if (type == START) {
    if (length < sizeof(struct start)) die();
    take(body, length);
    return;
  }
  uint32_t words[2];
  if (length < sizeof words) die();
  memcpy(words, body, sizeof words);
  if (type == DROP && drop_waiting(words[0])) return;
  struct task *task = find(words[0]);
  uint32_t stream = words[1];
  if (!task) return;
  /* One that was to be dropped and runs is for the agent to end. */
  if (type == ASK || type == DROP) tell_pid(task);
  if (type == SIGNAL && !task->exited) {
    /* One that was forked just now has no group yet. */
    if (kill(-task->pid, (int)words[1]) != 0) kill(task->pid, (int)words[1]);
  }
  if (type == CLOSE) {
    for (int i = 0; i < STREAMS; i++) {
      /* What was written by now still counts, whoever else had its turn before. */
      if (task->streams[i] >= 0 && !task->paused[i]) pass_on(task, i);
      close_stream(task, i);
    }
    settle(task);
  }
  if ((type != PAUSE && type != RESUME) || stream >= STREAMS) return;
  bool pause = type == PAUSE;
  if (task->streams[stream] < 0 || task->paused[stream] == pause) return;
  watch_task(task);
  task->paused[stream] = pause;
  watch_stream(task, (int)stream, pause ? EPOLL_CTL_DEL : EPOLL_CTL_ADD);
}

static void read_frames(void) {
  if (in.size < IN_KEPT || in.to == in.size) {
    in.size = in.size < IN_KEPT ? IN_KEPT : in.size * 2;
    if (in.size > 2 * (FRAME_MAX + IN_KEPT)) die();
    in.bytes = realloc(in.bytes, in.size);
    if (!in.bytes) die();
  }
  ssize_t got = read(IN, in.bytes + in.to, in.size - in.to);
  if (got == 0) die();
  if (got < 0) {
    if (errno == EAGAIN || errno == EINTR) return;
    die();
  }
  in.to += (size_t)got;
  for (;;) {
    uint32_t length;
    if (in.to - in.from < 4) break;
    memcpy(&length, in.bytes + in.from, 4);
    if (length < 1 || length > FRAME_MAX) die();
    if (in.to - in.from < 4 + (size_t)length) break;
    char *frame = in.bytes + in.from + 4;
    obey((uint8_t)frame[0], frame + 1, length - 1);
    in.from += 4 + (size_t)length;
  }
  memmove(in.bytes, in.bytes + in.from, in.to - in.from);
  in.to -= in.from;
  in.from = 0;
  if (in.to == 0 && in.size > IN_KEPT) {
    free(in.bytes);
    in.bytes = NULL;
    in.size = 0;
  }
}

/* Those that live longer than most are told of without being asked, and what they print is passed on. */
static void look_at_old(void) {
  static uint64_t looked_ns;
  uint64_t now = now_ns(), between_ms = unwatched > 0 ? WATCH_AFTER_MS : TELL_AFTER_MS;
  if (now - looked_ns < between_ms * 1000000u) return;
  looked_ns = now;
  for (int i = 0; i < BUCKETS && running > 0; i++)
    for (struct task *task = buckets[i]; task; task = task->next) {
      if (task->exited) continue;
      uint64_t age_ns = now - task->started_ns;
      if (age_ns >= (uint64_t)WATCH_AFTER_MS * 1000000u) watch_task(task);
      if (age_ns >= (uint64_t)TELL_AFTER_MS * 1000000u) tell_pid(task);
    }
}

static int patience_ms(void) {
  int wait_ms = unwatched > 0 ? WATCH_AFTER_MS : untold > 0 ? TELL_AFTER_MS : -1;
  if (!send_ns || out_waits) return wait_ms;
  uint64_t now = now_ns();
  int due_ms = now >= send_ns ? 0 : (int)((send_ns - now) / 1000000u) + 1;
  return wait_ms < 0 || due_ms < wait_ms ? due_ms : wait_ms;
}

static void watch(int fd) {
  struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
  if (epoll_ctl(main_epoll, EPOLL_CTL_ADD, fd, &event) != 0) _exit(2);
}

/* What the library has the kernel write to at times, in each thread of its own accord. */
static bool without_rseq(void) {
#ifdef RSEQ_SIG
  char *area = (char *)__builtin_thread_pointer() + __rseq_offset;
  bool gone = __rseq_size == 0;
  /* It has to be told with the length that it was registered with, which grows with the kernel. */
  for (unsigned length = 16; !gone && length <= 1024; length += 4)
    gone = syscall(SYS_rseq, area, length, RSEQ_FLAG_UNREGISTER, RSEQ_SIG) == 0;
  return gone;
#else
  return true;
#endif
}

/* All memory there is but the code and what is given to a child. Where that cannot be, a fork copies all, as forks do. */
static void keep_from_children(void) {
  static struct { uintptr_t from, to; } kept[64];
  unsigned count = 0;
  uintptr_t code = (uintptr_t)become, gives = (uintptr_t)&given, from, to;
  /* Buffers that are used from now on. */
  room(1);
  in.bytes = malloc(in.size = IN_KEPT);
  if (!in.bytes) _exit(2);
  FILE *maps = LEAN && without_rseq() ? fopen("/proc/self/maps", "re") : NULL;
  if (!maps) return;
  for (char line[512]; count < 62 && fgets(line, sizeof line, maps);) {
    if (sscanf(line, "%" SCNxPTR "-%" SCNxPTR, &from, &to) != 2 || (code >= from && code < to)) continue;
    bool both = gives >= from && gives < to;
    kept[count].from = from;
    kept[count++].to = both ? gives : to;
    if (!both) continue;
    kept[count].from = gives + sizeof given;
    kept[count++].to = to;
  }
  fclose(maps);
  heap_end = sbrk(0);
  for (unsigned i = 0; i < count; i++)
    if (kept[i].to > kept[i].from) madvise((void *)kept[i].from, kept[i].to - kept[i].from, MADV_DONTFORK);
}

static void prepare(pid_t agent) {
  /* The kernel ends this with the agent, whatever state it is in; nobody of the same user reads what it is told. */
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  prctl(PR_SET_DUMPABLE, 0);
  if (getppid() != agent) _exit(0);
  /* Whatever the agent was started with is no business of its tasks. */
  for (int fd = 3; fd < 1024 && syscall(SYS_close_range, 3u, ~0u, 0u) != 0; fd++) close(fd);
  null_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
  if (null_fd < 0) _exit(2);
  while ((null_fd = fcntl(null_fd, F_DUPFD_CLOEXEC, 3)) < RESERVED)
    if (null_fd < 0) _exit(2);
  sigset_t every, child;
  sigfillset(&every);
  sigprocmask(SIG_SETMASK, &every, NULL);
  sigemptyset(&child);
  sigaddset(&child, SIGCHLD);
  signals = signalfd(-1, &child, SFD_NONBLOCK | SFD_CLOEXEC);
  suid_dumpable_fd = open("/proc/sys/fs/suid_dumpable", O_RDONLY | O_CLOEXEC);
  main_epoll = epoll_create1(EPOLL_CLOEXEC);
  data_epoll = epoll_create1(EPOLL_CLOEXEC);
  if (signals < 0 || main_epoll < 0 || data_epoll < 0 || pipe2(refusals, O_NONBLOCK | O_CLOEXEC) != 0) _exit(2);
  for (int fd = IN; fd <= OUT; fd++) {
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
    fcntl(fd, F_SETFD, FD_CLOEXEC);
  }
  watch(IN);
  watch(signals);
  watch(data_epoll);
  struct epoll_event event = {.events = 0, .data.fd = OUT};
  if (epoll_ctl(main_epoll, EPOLL_CTL_ADD, OUT, &event) != 0) _exit(2);
  for (int i = -1; i < SHARED_MOST; i++) {
    struct given *to = i < 0 ? &given : &shared[i];
    to->parent = getpid();
    to->null_fd = null_fd;
    to->refusals = refusals[1];
    strcpy(to->shell, "/bin/sh");
  }
  keep_from_children();
}

/* The only argument is the number of the agent's process. */
int main(int argc, char **argv) {
  if (argc != 2) return 2;
  prepare((pid_t)atol(argv[1]));
  for (;;) {
    struct epoll_event events[8];
    int count = epoll_wait(main_epoll, events, 8, patience_ms());
    bool has[RESERVED * 8] = {false};
    for (int i = 0; i < count; i++) {
      if (events[i].data.fd == OUT && events[i].events & (EPOLLHUP | EPOLLERR)) die();
      if (events[i].data.fd >= 0 && events[i].data.fd < (int)sizeof has) has[events[i].data.fd] = true;
    }
    if (has[data_epoll]) read_streams();
    if (has[signals]) reap();
    if (has[IN]) read_frames();
    if (untold > 0 || unwatched > 0) look_at_old();
    flush();
    watch_data();
  }
}
