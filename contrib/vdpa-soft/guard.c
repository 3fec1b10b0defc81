/*
 * vdpa-soft: access to memory that may not be there
 *
 * Accesses are ordinary instructions, bracketed by a per-thread recovery
 * point: a ring is read millions of times and faults perhaps once, so the
 * cost belongs to the fault.
 *
 * Copyright (c) 2026 The vhost-vdpa backend authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "guard.h"

#ifndef BUS_MCEERR_AO
#define BUS_MCEERR_AO 5
#endif

/*
 * Read by the signal handler, so the storage must exist without a call into
 * the allocator: hence the initial-exec model.
 */
typedef struct VsGuard {
    sigjmp_buf env;
    volatile sig_atomic_t armed;
    bool unblocked;
} VsGuard;

static __thread VsGuard vs_guard __attribute__((tls_model("initial-exec")));

static pthread_mutex_t vs_guard_lock = PTHREAD_MUTEX_INITIALIZER;
static VsSigaction *vs_real_sigaction;
/* the program's own handlers: SIGSEGV, SIGBUS */
static struct sigaction vs_app_action[2];

static int slot(int sig)
{
    return sig == SIGSEGV ? 0 : sig == SIGBUS ? 1 : -1;
}

/* Let the kernel do what it does to a program without a handler. */
static void default_action(int sig, const siginfo_t *info)
{
    struct sigaction dfl = { .sa_handler = SIG_DFL };

    vs_real_sigaction(sig, &dfl, NULL);
    if (info->si_code <= 0) {
        /* sent by a process: returning would not repeat it */
        syscall(SYS_tgkill, getpid(), (pid_t)syscall(SYS_gettid), sig);
    }
}

static void on_signal(int sig, siginfo_t *info, void *context)
{
    struct sigaction *stored = &vs_app_action[slot(sig)];
    struct sigaction app;
    sigset_t mask;

    if (vs_guard.armed && info->si_code > 0 &&
        !(sig == SIGBUS && info->si_code == BUS_MCEERR_AO)) {
        vs_guard.armed = 0;
        siglongjmp(vs_guard.env, 1);
    }

    app = *stored;
    if (!(app.sa_flags & SA_SIGINFO)) {
        if (app.sa_handler == SIG_DFL ||
            (app.sa_handler == SIG_IGN && info->si_code > 0)) {
            /* a fault cannot be ignored: it would repeat for ever */
            default_action(sig, info);
            return;
        }
        if (app.sa_handler == SIG_IGN) {
            return;
        }
    }
    /* The kernel restores the mask when this handler returns. */
    mask = app.sa_mask;
    if (!(app.sa_flags & SA_NODEFER)) {
        sigaddset(&mask, sig);
    }
    pthread_sigmask(SIG_BLOCK, &mask, NULL);
    if (app.sa_flags & SA_RESETHAND) {
        stored->sa_handler = SIG_DFL;
        stored->sa_flags &= ~SA_SIGINFO;
    }
    if (app.sa_flags & SA_SIGINFO) {
        app.sa_sigaction(sig, info, context);
    } else {
        app.sa_handler(sig);
    }
}

void vs_guard_install(VsSigaction *real)
{
    /*
     * SA_NODEFER: recovery leaves the handler by a jump that does not touch
     * the signal mask, so the signal must not be blocked in it.
     */
    struct sigaction ours = {
        .sa_sigaction = on_signal,
        .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER,
    };

    pthread_mutex_lock(&vs_guard_lock);
    if (!vs_real_sigaction) {
        sigemptyset(&ours.sa_mask);
        /* old handlers are read first: a fault may come in between */
        real(SIGSEGV, NULL, &vs_app_action[0]);
        real(SIGBUS, NULL, &vs_app_action[1]);
        vs_real_sigaction = real;
        real(SIGSEGV, &ours, NULL);
        real(SIGBUS, &ours, NULL);
    }
    pthread_mutex_unlock(&vs_guard_lock);
}

bool vs_guard_sigaction(int sig, const struct sigaction *act,
                        struct sigaction *old)
{
    struct sigaction previous;
    bool taken;

    if (slot(sig) < 0) {
        return false;
    }
    pthread_mutex_lock(&vs_guard_lock);
    taken = vs_real_sigaction != NULL;
    if (taken) {
        previous = vs_app_action[slot(sig)];
        if (act) {
            vs_app_action[slot(sig)] = *act;
        }
        if (old) {
            *old = previous;
        }
    }
    pthread_mutex_unlock(&vs_guard_lock);
    return taken;
}

/*
 * A fault in a thread that blocks the signal kills the process, and threads
 * inherit the mask of whoever started them.
 */
static void unblock(sigset_t *old)
{
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, SIGSEGV);
    sigaddset(&set, SIGBUS);
    pthread_sigmask(SIG_UNBLOCK, &set, old);
}

static inline void prepare_device_thread(void)
{
    if (!vs_guard.unblocked) {
        unblock(NULL);
        vs_guard.unblocked = true;
    }
}

/*
 * The access stands between two compiler barriers, so that none of it is
 * moved out of the guarded part.  It ends the function that it stands in:
 * nothing can be said of local variables after a jump.
 */
#define GUARDED_RETURN(access) do {                 \
        if (sigsetjmp(vs_guard.env, 0)) {           \
            return false;                           \
        }                                           \
        vs_guard.armed = 1;                         \
        __atomic_signal_fence(__ATOMIC_SEQ_CST);    \
        access;                                     \
        __atomic_signal_fence(__ATOMIC_SEQ_CST);    \
        vs_guard.armed = 0;                         \
        return true;                                \
    } while (0)

static bool __attribute__((noinline))
guarded_copy(void *dst, const void *src, size_t size)
{
    if (!dst || !src) {
        /* a fault as well; memcpy() must not be asked */
        return size == 0;
    }
    GUARDED_RETURN(memcpy(dst, src, size));
}

bool vs_guard_dma_read(void *dst, uint64_t addr, size_t size)
{
    prepare_device_thread();
    return guarded_copy(dst, (const void *)(uintptr_t)addr, size);
}

bool vs_guard_dma_write(uint64_t addr, const void *src, size_t size)
{
    prepare_device_thread();
    return guarded_copy((void *)(uintptr_t)addr, src, size);
}

bool __attribute__((noinline)) vs_guard_load16(uint64_t addr, uint16_t *val)
{
    const uint16_t *p = (const uint16_t *)(uintptr_t)addr;

    prepare_device_thread();
    GUARDED_RETURN(*val = __atomic_load_n(p, __ATOMIC_ACQUIRE));
}

bool __attribute__((noinline)) vs_guard_store16(uint64_t addr, uint16_t val)
{
    uint16_t *p = (uint16_t *)(uintptr_t)addr;

    prepare_device_thread();
    GUARDED_RETURN(__atomic_store_n(p, val, __ATOMIC_RELEASE));
}

bool vs_guard_from_user(void *dst, const void *user, size_t size)
{
    sigset_t old;
    bool ok;

    unblock(&old);
    ok = guarded_copy(dst, user, size);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return ok;
}

bool vs_guard_to_user(void *user, const void *src, size_t size)
{
    sigset_t old;
    bool ok;

    unblock(&old);
    ok = guarded_copy(user, src, size);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return ok;
}
