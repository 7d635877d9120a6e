// Threads that wait for work, one for each core but the caller's.
#pragma once

#include <pthread.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

// Denormals as they are, rounding to nearest: MindSpore flushes them. The caller's settings come back.
class DefaultFloats {
#if defined(__x86_64__)
    unsigned before = _mm_getcsr();

  public:
    DefaultFloats() { _mm_setcsr(0x1f80); }
    ~DefaultFloats() { _mm_setcsr(before); }
#elif defined(__aarch64__)
    uint64_t before;
    static void set(uint64_t fpcr) { asm volatile("msr fpcr, %0" : : "r"(fpcr)); }

  public:
    DefaultFloats() {
        asm volatile("mrs %0, fpcr" : "=r"(before));
        set(0);
    }
    ~DefaultFloats() { set(before); }
#endif
};

class Pool {
  public:
    // The pool of this process; a fork has no threads, and gets a pool of its own. Never deleted: its threads may
    // outlive main. There is no lock that a fork could find taken.
    static Pool &here() {
        static std::atomic<Pool *> current{nullptr};
        Pool *pool = current;
        while (!pool || pool->owner != getpid()) {
            Pool *made = new Pool;
            if (current.compare_exchange_strong(pool, made)) return *made;
            delete made;
        }
        return *pool;
    }

    // How many threads take work, the caller's too, in pools that are launched from now on; 0 is one for each core.
    static std::atomic<int> &threads() {
        static std::atomic<int> count{0};
        return count;
    }

    // Call work(i) for each i below count, in any order, on this thread and the pool's; return when all is done.
    void run(int64_t count, const std::function<void(int64_t)> &work) {
        std::lock_guard<std::mutex> one_at_a_time(callers);
        if (workers < 0) launch();
        const int64_t helpers = std::min<int64_t>(workers, count - 1);
        {
            std::lock_guard<std::mutex> lock(mutex);
            job = &work;
            jobs = count;
            batch = std::clamp<int64_t>(count / (8 * (workers + 1)), 1, MOST);
            next = 0;
            wanted = busy = static_cast<int>(std::max<int64_t>(helpers, 0));
        }
        if (helpers > 0) start.notify_all();
        take(work);
        std::unique_lock<std::mutex> lock(mutex);
        busy -= wanted;  // those that have not woken yet are not waited for
        wanted = 0;
        done.wait(lock, [this] { return busy == 0; });
        job = nullptr;
    }

  private:
    // How many jobs one thread takes at a time, at most. They are next to each other in memory, of which a thread gets
    // more where another does not read beside it.
    static constexpr int64_t MOST = 16;

    void launch() {
        cpu_set_t cores;
        workers = sched_getaffinity(0, sizeof cores, &cores) == 0 ? CPU_COUNT(&cores) - 1 : 0;
        if (const int limit = threads(); limit > 0) workers = std::min(limit - 1, workers);
        for (int i = 0; i < workers; ++i) std::thread([this] { serve(); }).detach();
    }
    void take(const std::function<void(int64_t)> &work) {
        DefaultFloats floats;
        for (int64_t begin; (begin = next.fetch_add(batch)) < jobs;)
            for (int64_t i = begin; i < std::min(begin + batch, jobs); ++i) work(i);
    }
    void serve() {
        for (;;) {
            std::unique_lock<std::mutex> lock(mutex);
            start.wait(lock, [this] { return wanted > 0; });
            --wanted;
            const auto *work = job;
            lock.unlock();
            take(*work);
            lock.lock();
            if (--busy == 0) done.notify_one();
        }
    }

    std::mutex callers, mutex;
    std::condition_variable start, done;
    const std::function<void(int64_t)> *job = nullptr;
    std::atomic<int64_t> next{0};
    int64_t jobs = 0, batch = 1;
    int workers = -1, wanted = 0, busy = 0;
    const pid_t owner = getpid();
};
