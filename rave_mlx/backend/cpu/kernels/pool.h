// Threads that share the parts of one loop. Parts are taken one by one, so a thread that the system holds up costs no
// more than the part it has; the caller takes parts too, and finishes alone where no other thread comes.
#pragma once
#include <sched.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>

namespace rave {

class Pool {
  public:
    explicit Pool(int helpers) {
        for (int i = 0; i < helpers; ++i) std::thread([this] { help(); }).detach();
    }

    // body(first, last) for pieces of 0 <= i < count, `grain` long. One loop at a time: a second caller works alone.
    template <class Body>
    void each(int64_t count, int64_t grain, const Body& body) {
        std::unique_lock<std::mutex> turn(turn_, std::defer_lock);
        if (count <= grain || !turn.try_lock()) return body(0, count);
        run_ = [](const void* b, int64_t first, int64_t last) { (*static_cast<const Body*>(b))(first, last); };
        body_ = &body;
        count_ = count;
        grain_ = grain;
        next_.store(0, std::memory_order_relaxed);
        state_.fetch_add(kLoop + kOpen, std::memory_order_seq_cst);
        if (sleeping_.load(std::memory_order_seq_cst)) {
            { std::lock_guard<std::mutex> lock(mutex_); }
            wake_.notify_all();
        }
        work();
        state_.fetch_sub(kOpen, std::memory_order_acq_rel);
        for (int i = 0; state_.load(std::memory_order_acquire) & kInside; ++i) pause(i);
    }

  private:
    // state_: helpers inside the loop, whether it is open, and the number of loops.
    static constexpr uint64_t kInside = 0xffff, kOpen = 1 << 16, kLoop = 1 << 17;
    static constexpr auto kPatience = std::chrono::microseconds(40);

    static void pause(int i) {
        if (i % 64 == 63) sched_yield();
#if defined(__x86_64__)
        else __builtin_ia32_pause();
#elif defined(__aarch64__)
        else asm volatile("yield");
#endif
    }

    void work() {
        for (;;) {
            int64_t first = next_.fetch_add(grain_, std::memory_order_relaxed);
            if (first >= count_) return;
            run_(body_, first, first + grain_ < count_ ? first + grain_ : count_);
        }
    }

    void help() {
        uint64_t done = 0;
        for (;;) {
            uint64_t state = wait(done);
            done = state / kLoop;
            while (state & kOpen && state / kLoop == done)
                if (state_.compare_exchange_weak(state, state + 1, std::memory_order_acq_rel)) {
                    work();
                    state_.fetch_sub(1, std::memory_order_acq_rel);
                    break;
                }
        }
    }

    uint64_t wait(uint64_t done) {
        auto start = std::chrono::steady_clock::now();
        for (int i = 0; i % 64 || std::chrono::steady_clock::now() - start < kPatience; ++i) {
            uint64_t state = state_.load(std::memory_order_acquire);
            if (state / kLoop != done) return state;
            pause(i % 63);
        }
        std::unique_lock<std::mutex> lock(mutex_);
        ++sleeping_;
        wake_.wait(lock, [&] { return state_.load(std::memory_order_seq_cst) / kLoop != done; });
        --sleeping_;
        return state_.load(std::memory_order_acquire);
    }

    void (*run_)(const void*, int64_t, int64_t) = nullptr;
    const void* body_ = nullptr;
    int64_t count_ = 0, grain_ = 1;
    std::atomic<int64_t> next_{0};
    std::atomic<uint64_t> state_{0};
    std::atomic<int> sleeping_{0};
    std::mutex turn_, mutex_;
    std::condition_variable wake_;
};

}  // namespace rave
