// Memory that vectors can be loaded from without crossing cache lines.
// Instructions: scalar. Bound by: memory, which `Buffer` fills with zeros when it is made.
#pragma once
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>

namespace distilmatch {

template <class T>
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(size_t count) : count_(count) {
    const size_t bytes = (count * sizeof(T) + 127) / 64 * 64;  // a vector past the end may be read
    data_.reset(static_cast<T*>(std::aligned_alloc(64, bytes)));
    if (!data_) throw std::bad_alloc();
    std::memset(data_.get(), 0, bytes);
  }
  // Numbers that stand elsewhere, for as long as this is used; memory past the last of them may be read.
  static Buffer view(const T* data, size_t count) {
    Buffer made;
    made.data_ = std::unique_ptr<T, Free>(const_cast<T*>(data), Free{false});
    made.count_ = count;
    return made;
  }
  T* data() { return data_.get(); }
  const T* data() const { return data_.get(); }
  T& operator[](size_t i) { return data_.get()[i]; }
  const T& operator[](size_t i) const { return data_.get()[i]; }
  size_t bytes() const { return count_ * sizeof(T); }
  explicit operator bool() const { return count_ > 0; }

 private:
  struct Free {
    bool owned = true;
    void operator()(T* p) const {
      if (owned) std::free(p);
    }
  };
  std::unique_ptr<T, Free> data_;
  size_t count_ = 0;
};

// Zeros that take no memory until they are written to.
template <class T>
class Zeros {
 public:
  explicit Zeros(size_t count) : data_(static_cast<T*>(std::calloc(count ? count : 1, sizeof(T)))) {
    if (!data_) throw std::bad_alloc();
  }
  T* data() { return data_.get(); }
  const T* data() const { return data_.get(); }

 private:
  struct Free {
    void operator()(T* p) const { std::free(p); }
  };
  std::unique_ptr<T, Free> data_;
};

}  // namespace distilmatch
