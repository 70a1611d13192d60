// How many threads a parallel region may have.
// Instructions: scalar. Bound by: nothing, it is asked once for each parallel region.
#pragma once
#include <atomic>
#include <exception>

namespace distilmatch {

// `threads`, no more than 64 or than there are processors (OpenMP ends a process that cannot start so many), or 1 in a
// process that was forked from one whose threads had been started: those do not live in the child, and a region of
// several threads would wait for them for ever.
int team_size(int threads);

// Whether this is such a process.
bool forked_after_use();

// The first exception of a parallel region, which must not leave it: what it cannot catch ends the process.
class Failure {
 public:
  template <class Work>
  void run(Work work) noexcept {
    if (failed_) return;
    try {
      work();
    } catch (...) {
      if (!failed_.exchange(true)) error_ = std::current_exception();
    }
  }
  // After the region.
  void rethrow() const {
    if (error_) std::rethrow_exception(error_);
  }

 private:
  std::atomic<bool> failed_{false};
  std::exception_ptr error_;
};

}  // namespace distilmatch
