// fibers.h -- GPU threads as fibers.
//
// Every GPU thread is a fiber; fibers of a threadgroup run on one OS thread and switch only at simdgroup collectives
// and barriers, so threadgroup memory needs no atomics and a run is reproducible.  The order argument of dispatch()
// permutes the schedule to expose missing barriers: 0 first-in-first-out, 1 reversed, 4 / 5 greedy by lowest / highest
// thread index, others random. Reported as errors (exit code 86): divergence at collectives, early exits before
// barriers, threadgroup memory over 32 KB, more than 1024 threads, accesses outside a threadgroup array, accesses
// outside a device buffer, deadlock.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <random>
#include <thread>
#include <atomic>
#include <type_traits>
#include <vector>
#include <map>
#include <csignal>
#include <sys/mman.h>
#include <unistd.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

// ------------------------------------------------------------------ fibers
namespace emu {
extern "C" void emu_switch(void** save_sp, void* load_sp);
#if defined(__x86_64__)
asm(R"(
.text
.globl emu_switch
.type emu_switch,@function
emu_switch:
  pushq %rbp; pushq %rbx; pushq %r12; pushq %r13; pushq %r14; pushq %r15
  movq %rsp,(%rdi)
  movq %rsi,%rsp
  popq %r15; popq %r14; popq %r13; popq %r12; popq %rbx; popq %rbp
  ret
)");
#elif defined(__aarch64__)
asm(R"(
.text
.globl emu_switch
emu_switch:
  sub sp, sp, #160
  stp x19,x20,[sp,#0]; stp x21,x22,[sp,#16]; stp x23,x24,[sp,#32]; stp x25,x26,[sp,#48]
  stp x27,x28,[sp,#64]; stp x29,x30,[sp,#80]
  stp d8,d9,[sp,#96]; stp d10,d11,[sp,#112]; stp d12,d13,[sp,#128]; stp d14,d15,[sp,#144]
  mov x9, sp
  str x9,[x0]
  mov sp, x1
  ldp x19,x20,[sp,#0]; ldp x21,x22,[sp,#16]; ldp x23,x24,[sp,#32]; ldp x25,x26,[sp,#48]
  ldp x27,x28,[sp,#64]; ldp x29,x30,[sp,#80]
  ldp d8,d9,[sp,#96]; ldp d10,d11,[sp,#112]; ldp d12,d13,[sp,#128]; ldp d14,d15,[sp,#144]
  add sp, sp, #160
  ret
)");
#else
#error "add a fiber switch for this CPU"
#endif

struct u3 {
  unsigned x, y, z;
};
constexpr int SIMD = 32;
constexpr size_t STACK = 256 << 10;
constexpr size_t TG_LIMIT = 32768;

struct Fiber {
  void* sp = nullptr;
  char* stack = nullptr;
  int tid = 0;  // index in threadgroup
  bool done = false;
  u3 pos_tg{}, pos_grid{};
};
struct Group;     // threadgroup
struct SimdBox {  // mailbox of one simdgroup
  alignas(16) char in[2][SIMD][96];
  alignas(16) char out[2][SIMD][32];
  int arrived = 0;
  unsigned gen = 0;
  int live = 0;
  int waiting[SIMD];
  int kind = 0;
};
struct Block {  // an allocation in threadgroup memory
  char* p;
  size_t n;
};
struct Group {
  std::vector<Fiber> f;
  std::vector<SimdBox> sg;
  std::vector<int> ready;
  size_t head = 0;
  std::map<int, Block> mem;
  size_t mem_bytes = 0;
  int live = 0, at_barrier = 0;
  std::vector<int> bar_wait;
  void* sched_sp = nullptr;
  int cur = -1;
  u3 tg_pos{}, tgs{}, threads_per_tg{}, grid{};
  void (*entry)(void*) = nullptr;
  void* arg = nullptr;
  int order = 0;
  std::mt19937 rng{1};
  long switches = 0;
  size_t peak_mem = 0;
};
inline thread_local Group* G = nullptr;
[[noreturn]] inline void fail(const char* m) {
  std::fprintf(stderr, "metal_emu: %s (threadgroup %u,%u,%u thread %d)\n", m, G->tg_pos.x, G->tg_pos.y, G->tg_pos.z,
               G->cur);
  std::fflush(stderr);
  std::_Exit(86);
}

__attribute__((noinline)) inline void block() {  // park the running fiber
  Group* g = G;
  g->switches++;
  emu_switch(&g->f[g->cur].sp, g->sched_sp);
}
inline void wake(int tid) { G->ready.push_back(tid); }

// All live lanes of the simdgroup meet here; the last to arrive computes.
template <class In, class Out, class F>
__attribute__((noinline)) Out collective(const In& v, int kind, F f) {
  static_assert(sizeof(In) <= 96 && sizeof(Out) <= 32, "mailbox too small");
  Group* g = G;
  Fiber& me = g->f[g->cur];
  int lane = me.tid % SIMD;
  SimdBox& b = g->sg[me.tid / SIMD];
  if (b.arrived == 0)
    b.kind = kind;
  else if (b.kind != kind)
    fail("simdgroup collective reached by lanes at different operations (divergence)");
  unsigned gen = b.gen & 1;
  std::memcpy(b.in[gen][lane], &v, sizeof(In));
  b.waiting[b.arrived++] = me.tid;
  if (b.arrived == b.live) {
    if (b.live != std::min<int>(SIMD, (int)g->f.size() - (me.tid / SIMD) * SIMD))
      fail("simdgroup collective after some lanes returned");
    f(b.in[gen], b.out[gen], b.live);
    b.arrived = 0;
    b.gen++;
    for (int i = 0; i < b.live; i++)
      if (b.waiting[i] != me.tid) wake(b.waiting[i]);
  } else
    block();
  Out r;
  std::memcpy(&r, g->sg[me.tid / SIMD].out[gen][lane], sizeof(Out));
  return r;
}
__attribute__((noinline)) inline void tg_barrier() {
  Group* g = G;
  g->at_barrier++;
  if (g->at_barrier == g->live) {
    if (g->live != (int)g->f.size()) fail("threadgroup_barrier after some threads returned");
    g->at_barrier = 0;
    for (int t : g->bar_wait) wake(t);
    g->bar_wait.clear();
    // the last arriver also goes to the back of the queue so that the order stays fair
    wake(g->cur);
    block();
  } else {
    g->bar_wait.push_back(g->cur);
    block();
  }
}
inline void sg_barrier() {
  collective<char, char>(0, 99, [](auto*, auto* out, int n) {
    for (int i = 0; i < n; i++) out[i][0] = 0;
  });
}

inline void* tg_alloc(int id, size_t n) {
  Group* g = G;
  auto it = g->mem.find(id);
  if (it != g->mem.end()) return it->second.p;
  char* p = (char*)aligned_alloc(64, (n + 4096 + 127) / 64 * 64);
  std::memset(p, 0xFF, n + 4096);  // NaN pattern: uninitialised reads, and reads past the end, show up
  g->mem[id] = {p, n};
  g->mem_bytes += (n + 15) / 16 * 16;
  if (g->mem_bytes > TG_LIMIT) {
    std::fprintf(stderr, "metal_emu: %zu bytes of threadgroup memory > %zu\n", g->mem_bytes, TG_LIMIT);
    fail("threadgroup memory");
  }
  return p;
}
// A threadgroup array: indices are checked; a pointer into it is only guarded by the NaN pattern behind it.
template <class T>
struct TgArray {
  T* p;
  long n;
  T& operator[](long i) const {
    if (i < 0 || i >= n) fail("index outside a threadgroup array");
    return p[i];
  }
  T* operator+(long i) const {
    if (i < 0 || i >= n) fail("pointer outside a threadgroup array");
    return p + i;
  }
};
inline void check_guards() {
  for (auto& kv : G->mem) {
    for (int i = 0; i < 4096; i++)
      if ((unsigned char)kv.second.p[kv.second.n + i] != 0xFF) fail("write past the end of a threadgroup array");
    free(kv.second.p);
  }
  G->mem.clear();
  G->peak_mem = std::max(G->peak_mem, G->mem_bytes);
  G->mem_bytes = 0;
}

inline void fiber_main() {
  Group* g = G;
  g->entry(g->arg);
  Fiber& me = g->f[g->cur];
  me.done = true;
  g->live--;
  g->sg[me.tid / SIMD].live--;
  block();
  std::abort();
}
extern "C" inline void emu_fiber_tramp() { fiber_main(); }

inline void run_group(Group& g, int n) {
  G = &g;
  g.ready.clear();
  g.head = 0;
  g.live = n;
  g.at_barrier = 0;
  g.bar_wait.clear();
  g.sg.resize((n + SIMD - 1) / SIMD);
  for (size_t i = 0; i < g.sg.size(); i++) {
    g.sg[i].arrived = 0;
    g.sg[i].gen = 0;
    g.sg[i].live = std::min<int>(SIMD, n - (int)i * SIMD);
  }
  std::vector<int> ord(n);
  for (int i = 0; i < n; i++) ord[i] = i;
  if (g.order == 1)
    for (int i = 0; i < n; i++) ord[i] = n - 1 - i;
  if (g.order >= 2)
    for (int i = n - 1; i > 0; i--) std::swap(ord[i], ord[g.rng() % (i + 1)]);
  for (int i = 0; i < n; i++) {
    Fiber& f = g.f[i];
    f.done = false;
    f.tid = i;
    if (!f.stack)
      f.stack = (char*)mmap(nullptr, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    void** sp = (void**)(f.stack + STACK);
#if defined(__x86_64__)
    *--sp = nullptr;
    *--sp = (void*)&emu_fiber_tramp;  // return address; rsp%16==8 on entry
    for (int k = 0; k < 6; k++) *--sp = nullptr;
#else
    sp = (void**)((char*)sp - 160);
    std::memset(sp, 0, 160);
    sp[11] = (void*)&emu_fiber_tramp;
#endif
    f.sp = sp;
  }
  for (int t : ord) g.ready.push_back(t);
  while (g.live > 0) {
    if (g.head == g.ready.size()) fail("deadlock: no runnable thread (a barrier or collective is not reached by all)");
    size_t pick = g.head;
    if (g.order == 4 || g.order == 5) {  // greedy: one simdgroup runs as far ahead as it can
      for (size_t i = g.head; i < g.ready.size(); i++)
        if (g.order == 4 ? g.ready[i] < g.ready[pick] : g.ready[i] > g.ready[pick]) pick = i;
      std::swap(g.ready[pick], g.ready[g.head]);
    } else if (g.order >= 2) {
      pick = g.head + g.rng() % (g.ready.size() - g.head);
      std::swap(g.ready[pick], g.ready[g.head]);
    } else if (g.order == 1) {
      std::swap(g.ready[g.ready.size() - 1], g.ready[g.head]);
    }
    int t = g.ready[g.head++];
    if (g.head > 65536) {
      g.ready.erase(g.ready.begin(), g.ready.begin() + g.head);
      g.head = 0;
    }
    g.cur = t;
    emu_switch(&g.sched_sp, g.f[t].sp);
  }
  check_guards();
}

struct Stats {
  long switches;
  size_t tg_mem;
};
// Device buffers end at a protected page: an access outside one arrives here.
inline void on_fault(int) {
  static const char text[] = "metal_emu: access outside a device buffer\n";
  (void)!write(2, text, sizeof(text) - 1);
  _exit(86);
}
inline void watch_faults() {
  signal(SIGSEGV, on_fault);
  signal(SIGBUS, on_fault);
}
// dispatchThreads: a grid of threads, cut in threadgroups
template <class F>
Stats dispatch(u3 grid, u3 tg, int order, int workers, F body) {
  tg.x = std::min(tg.x, grid.x);
  tg.y = std::min(tg.y, grid.y);
  tg.z = std::min(tg.z, grid.z);
  u3 n{(grid.x + tg.x - 1) / tg.x, (grid.y + tg.y - 1) / tg.y, (grid.z + tg.z - 1) / tg.z};
  if (grid.x % tg.x || grid.y % tg.y || grid.z % tg.z) {
    std::fprintf(stderr, "metal_emu: non-uniform threadgroups are not emulated\n");
    std::_Exit(86);
  }
  if (tg.x * tg.y * tg.z > 1024) {
    std::fprintf(stderr, "metal_emu: more than 1024 threads per threadgroup\n");
    std::_Exit(86);
  }
  long total = (long)n.x * n.y * n.z;
  std::atomic<long> next{0};
  std::atomic<long> sw{0};
  std::atomic<size_t> mem{0};
  auto work = [&] {
    Group g;
    g.order = order;
    int nt = tg.x * tg.y * tg.z;
    g.f.resize(nt);
    for (;;) {
      long i = next++;
      if (i >= total) break;
      if (order) i = total - 1 - i;
      g.rng.seed(unsigned(order * 7919 + i));
      g.tgs = n;
      g.threads_per_tg = tg;
      g.grid = grid;
      g.tg_pos = {unsigned(i % n.x), unsigned(i / n.x % n.y), unsigned(i / n.x / n.y)};
      for (int t = 0; t < nt; t++) {
        u3 p{unsigned(t % tg.x), unsigned(t / tg.x % tg.y), unsigned(t / tg.x / tg.y)};
        g.f[t].pos_tg = p;
        g.f[t].pos_grid = {g.tg_pos.x * tg.x + p.x, g.tg_pos.y * tg.y + p.y, g.tg_pos.z * tg.z + p.z};
      }
      g.entry = [](void* a) { (*(F*)a)(); };
      g.arg = (void*)&body;
      run_group(g, nt);
    }
    sw += g.switches;
    size_t m = mem;
    while (g.peak_mem > m && !mem.compare_exchange_weak(m, g.peak_mem)) {
    }
    for (auto& f : g.f)
      if (f.stack) munmap(f.stack, STACK);
  };
  std::vector<std::thread> th;
  for (int w = 1; w < workers; w++) th.emplace_back(work);
  work();
  for (auto& t : th) t.join();
  return {sw.load(), mem.load()};
}
inline Fiber& me() { return G->f[G->cur]; }
}  // namespace emu
