/* Preloaded into a command and its children: counts the file operations below one folder, makes the
   Nth of them fail or end the process, and records them in a log for power_loss.py.

   What is not seen: reads and writes of stdio buffers inside libc (fread, fwrite), mapped memory, and
   operations through descriptors made by dup. Descriptors above MOST are not followed. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum { OPEN = 1, CREATE = 2, WRITE = 4, SYNC = 8, RENAME = 16, UNLINK = 32, MKDIR = 64,
       TRUNCATE = 128, MARK = 256, COUNTED = 512, READ = 1024 };
enum { COUNT = 0, FAIL = 1, FAIL_FROM = 2, SIGNAL_AFTER = 3, SIGNAL_BEFORE = 4 };
enum { SELF = 0, PARENT = 1, GROUP = 2 };
#define MOST 4096

/* Shared by all processes of one command; the order is that of `Plan` in warm.py. */
struct plan {
    int64_t count;   /* operations so far */
    int64_t target;  /* number of the operation, from 1 */
    int32_t mask;    /* kinds that are counted */
    int32_t action;
    int32_t number;  /* errno or signal */
    int32_t whom;
    int32_t fired;   /* process in which it happened */
    int32_t log;     /* descriptor of the log, or -1 */
    int32_t kind;    /* of the operation that it happened at */
    int32_t unused;
    char root[1024];
    char path[1024]; /* of the operation that it happened at */
};

struct record { uint32_t kind, path, other, pid; int64_t offset, length; uint64_t inode; };

static struct plan *plan;
static char followed[MOST];

void faults_arm(struct plan *given) { plan = given; memset(followed, 0, sizeof followed); }

static int below(const char *path) {
    size_t length = strlen(plan->root);
    return !strncmp(path, plan->root, length) && (path[length] == '/' || !path[length]);
}

/* The absolute path of `path` at a folder's descriptor; 0 if it is not below the root. */
static int place(int folder, const char *path, char *full) {
    char name[64];
    ssize_t length;
    if (!plan || !path) return 0;
    if (path[0] == '/') {
        snprintf(full, PATH_MAX, "%s", path);
    } else {
        if (folder == AT_FDCWD) snprintf(name, sizeof name, "/proc/self/cwd");
        else snprintf(name, sizeof name, "/proc/self/fd/%d", folder);
        length = readlink(name, full, PATH_MAX - 1);
        if (length < 0) return 0;
        snprintf(full + length, PATH_MAX - length, "/%s", path);
    }
    return below(full);
}

static void place_of(int handle, char *full) {
    char name[64];
    ssize_t length;
    snprintf(name, sizeof name, "/proc/self/fd/%d", handle);
    length = readlink(name, full, PATH_MAX - 1);
    full[length < 0 ? 0 : length] = 0;
}

static void hit(int kind, const char *path) {
    pid_t self = getpid();
    plan->kind = kind;
    snprintf(plan->path, sizeof plan->path, "%s", path);
    plan->fired = self;
    if (plan->action == SIGNAL_AFTER || plan->action == SIGNAL_BEFORE)
        kill(plan->whom == SELF ? self : plan->whom == PARENT ? getppid() : 0, plan->number);
}

static void note(uint32_t kind, const char *path, const char *other, int64_t offset,
                 const struct iovec *parts, int count, int64_t length, uint64_t inode);

/* Count an operation; the errno with which it has to fail, or 0. `mine` is set if it is the one. */
static int before(int kind, const char *path, int *mine) {
    *mine = 0;
    if (!(plan->mask & kind)) return 0;
    int64_t now = __atomic_add_fetch(&plan->count, 1, __ATOMIC_SEQ_CST);
    if (plan->log >= 0) note(COUNTED, path, "", now, NULL, 0, 0, kind);
    if (plan->action == FAIL_FROM && plan->target && now >= plan->target) {
        if (!plan->fired) hit(kind, path);
        return plan->number;
    }
    if (now != plan->target) return 0;
    *mine = plan->action == SIGNAL_AFTER;
    if (plan->action == COUNT || *mine) return 0;
    hit(kind, path);
    return plan->action == FAIL ? plan->number : 0;
}

static void after(int kind, const char *path, int mine) {
    int kept = errno;
    if (mine) hit(kind, path);
    errno = kept;
}

static void note(uint32_t kind, const char *path, const char *other, int64_t offset,
                 const struct iovec *parts, int count, int64_t length, uint64_t inode) {
    struct iovec all[64];
    int used = 3, kept = errno;
    int64_t left = length;
    struct record head = {kind, strlen(path), strlen(other), getpid(), offset, length, inode};
    all[0] = (struct iovec){&head, sizeof head};
    all[1] = (struct iovec){(void *)path, head.path};
    all[2] = (struct iovec){(void *)other, head.other};
    for (int i = 0; i < count && used < 64 && left > 0; i++) {
        size_t size = parts[i].iov_len < (size_t)left ? parts[i].iov_len : (size_t)left;
        all[used++] = (struct iovec){parts[i].iov_base, size};
        left -= size;
    }
    syscall(SYS_writev, plan->log, all, used);
    errno = kept;
}

static uint64_t inode_of(int handle) {
    struct stat found;
    return fstat(handle, &found) ? 0 : found.st_ino;
}

/* The caller's acknowledgement, such as a recorded event. */
void faults_mark(const char *text) {
    if (plan && plan->log >= 0) note(MARK, text, "", 0, NULL, 0, 0, 0);
}

#define REAL(name) static __typeof__(&name) real; if (!real) real = dlsym(RTLD_NEXT, #name)

static int opened(int handle, int flags, int is_new, const char *full) {
    if (handle >= 0 && handle < MOST) followed[handle] = 1;
    if (handle >= 0 && plan->log >= 0 && (is_new || flags & O_TRUNC))
        note(is_new ? CREATE : TRUNCATE, full, "", 0, NULL, 0, 0, inode_of(handle));
    return handle;
}

#define OPENING(folder, call)                                                        \
    char full[PATH_MAX];                                                             \
    mode_t mode = 0;                                                                 \
    if (flags & (O_CREAT | O_TMPFILE)) {                                             \
        va_list more; va_start(more, flags); mode = va_arg(more, mode_t); va_end(more); \
    }                                                                                \
    if (!place(folder, path, full)) return call;                                     \
    int is_new = (flags & O_CREAT) && access(full, F_OK), mine;                      \
    int kind = is_new ? CREATE : OPEN, error = before(kind, full, &mine);            \
    if (error) { errno = error; return -1; }                                         \
    int handle = opened(call, flags, is_new, full);                                  \
    after(kind, full, mine);                                                         \
    return handle;

int open(const char *path, int flags, ...) { REAL(open); OPENING(AT_FDCWD, real(path, flags, mode)) }
int open64(const char *path, int flags, ...) { REAL(open64); OPENING(AT_FDCWD, real(path, flags, mode)) }
int openat(int folder, const char *path, int flags, ...) { REAL(openat); OPENING(folder, real(folder, path, flags, mode)) }
int openat64(int folder, const char *path, int flags, ...) { REAL(openat64); OPENING(folder, real(folder, path, flags, mode)) }

#define STREAM(name)                                                                 \
    FILE *name(const char *path, const char *how) {                                  \
        REAL(name);                                                                  \
        char full[PATH_MAX];                                                         \
        if (!place(AT_FDCWD, path, full)) return real(path, how);                    \
        int is_new = how[0] != 'r' && access(full, F_OK), mine;                      \
        int kind = is_new ? CREATE : OPEN, error = before(kind, full, &mine);        \
        if (error) { errno = error; return NULL; }                                   \
        FILE *file = real(path, how);                                                \
        if (file) opened(fileno(file), how[0] == 'w' ? O_TRUNC : 0, is_new, full);   \
        after(kind, full, mine);                                                     \
        return file;                                                                 \
    }
STREAM(fopen)
STREAM(fopen64)

int close(int handle) {
    REAL(close);
    if (handle >= 0 && handle < MOST) followed[handle] = 0;
    return real(handle);
}

static int is_followed(int handle) { return plan && handle >= 0 && handle < MOST && followed[handle]; }

#define ON_HANDLE(kind, call, noted)                                                 \
    if (!is_followed(handle)) return call;                                           \
    char full[PATH_MAX];                                                             \
    int mine, error;                                                                 \
    place_of(handle, full);                                                          \
    /* Closed inside the C library, and another file has its number now: a pipe. */  \
    if (!below(full)) return call;                                                   \
    error = before(kind, full, &mine);                                               \
    if (error) { errno = error; return -1; }                                         \
    __typeof__(call) done = call;                                                    \
    if (done >= 0 && plan->log >= 0) { noted; }                                      \
    after(kind, full, mine);                                                         \
    return done;

#define NOTED_WRITE(at, parts, count) note(WRITE, full, "", at, parts, count, done, inode_of(handle))

ssize_t write(int handle, const void *data, size_t size) {
    REAL(write);
    struct iovec one = {(void *)data, size};
    ON_HANDLE(WRITE, real(handle, data, size),
              NOTED_WRITE(lseek(handle, 0, SEEK_CUR) - done, &one, 1))
}
ssize_t writev(int handle, const struct iovec *parts, int count) {
    REAL(writev);
    ON_HANDLE(WRITE, real(handle, parts, count),
              NOTED_WRITE(lseek(handle, 0, SEEK_CUR) - done, parts, count))
}
ssize_t pwrite(int handle, const void *data, size_t size, off_t at) {
    REAL(pwrite);
    struct iovec one = {(void *)data, size};
    ON_HANDLE(WRITE, real(handle, data, size, at), NOTED_WRITE(at, &one, 1))
}
ssize_t pwrite64(int handle, const void *data, size_t size, off64_t at) {
    REAL(pwrite64);
    struct iovec one = {(void *)data, size};
    ON_HANDLE(WRITE, real(handle, data, size, at), NOTED_WRITE(at, &one, 1))
}
#define READING(call) ON_HANDLE(READ, call, (void)done)
ssize_t read(int handle, void *data, size_t size) { REAL(read); READING(real(handle, data, size)) }
ssize_t readv(int handle, const struct iovec *parts, int count) { REAL(readv); READING(real(handle, parts, count)) }
ssize_t pread(int handle, void *data, size_t size, off_t at) { REAL(pread); READING(real(handle, data, size, at)) }
ssize_t pread64(int handle, void *data, size_t size, off64_t at) { REAL(pread64); READING(real(handle, data, size, at)) }

#define NOTED(kind, number) note(kind, full, "", number, NULL, 0, 0, inode_of(handle))
int fsync(int handle) { REAL(fsync); ON_HANDLE(SYNC, real(handle), NOTED(SYNC, 0)) }
int fdatasync(int handle) { REAL(fdatasync); ON_HANDLE(SYNC, real(handle), NOTED(SYNC, 0)) }
int ftruncate(int handle, off_t size) { REAL(ftruncate); ON_HANDLE(TRUNCATE, real(handle, size), NOTED(TRUNCATE, size)) }
int ftruncate64(int handle, off64_t size) { REAL(ftruncate64); ON_HANDLE(TRUNCATE, real(handle, size), NOTED(TRUNCATE, size)) }

#define ON_PATH(kind, folder, call, other_place)                                     \
    char full[PATH_MAX], other[PATH_MAX] = "";                                       \
    if (!place(folder, path, full)) return call;                                     \
    int mine, error = before(kind, full, &mine);                                     \
    if (error) { errno = error; return -1; }                                         \
    other_place;                                                                     \
    int done = call;                                                                 \
    if (done >= 0 && plan->log >= 0) note(kind, full, other, 0, NULL, 0, 0, 0);      \
    after(kind, full, mine);                                                         \
    return done;

int rename(const char *path, const char *to) { REAL(rename); ON_PATH(RENAME, AT_FDCWD, real(path, to), place(AT_FDCWD, to, other)) }
int renameat(int from, const char *path, int folder, const char *to) { REAL(renameat); ON_PATH(RENAME, from, real(from, path, folder, to), place(folder, to, other)) }
int unlink(const char *path) { REAL(unlink); ON_PATH(UNLINK, AT_FDCWD, real(path), ) }
int unlinkat(int folder, const char *path, int flags) { REAL(unlinkat); ON_PATH(UNLINK, folder, real(folder, path, flags), ) }
int rmdir(const char *path) { REAL(rmdir); ON_PATH(UNLINK, AT_FDCWD, real(path), ) }
int mkdir(const char *path, mode_t mode) { REAL(mkdir); ON_PATH(MKDIR, AT_FDCWD, real(path, mode), ) }
int mkdirat(int folder, const char *path, mode_t mode) { REAL(mkdirat); ON_PATH(MKDIR, folder, real(folder, path, mode), ) }
