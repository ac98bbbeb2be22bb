#include "tfps_ops/core/rows/row_conversion.h"

#include <cstring>
#include <vector>

#include "tfps_ops/core/row_kernels.h"

namespace tfps {
namespace {

// Chosen once: what the CPU can do does not change.
const RowKernels& Kernels() {
  static const RowKernels& kernels = RowKernelsFor(BestCpuTarget());
  return kernels;
}

// The finalizer of splitmix64 (Steele et al. 2014).
uint64_t Mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EB;
  return x ^ (x >> 31);
}

}  // namespace

uint64_t RoundingDraw::Stream() const {
  // One number at a time: with a sum of the three, update 2 of row 1 could be update 1 of row 2.
  const uint64_t of_update = Mix(update + 0x9E3779B97F4A7C15);
  return Mix(Mix(of_update ^ static_cast<uint64_t>(key)) + static_cast<uint64_t>(part));
}

void WidenRow(const void* from, Storage storage, int64_t n, float* out) {
  // An empty vector has no memory, and memcpy takes no null pointer, not even for 0 bytes.
  if (n == 0) return;
  if (storage == Storage::kFloat32) std::memcpy(out, from, n * sizeof(float));
  else Kernels().widen(static_cast<const uint16_t*>(from), n, out);
}

void StoreNearest(const float* from, int64_t n, Storage storage, void* out) {
  if (storage == Storage::kFloat32) std::memcpy(out, from, n * sizeof(float));
  else Kernels().narrow(from, n, static_cast<uint16_t*>(out));
}

void StoreAtRandom(const float* from, int64_t n, const RoundingDraw& draw, Storage storage, void* out) {
  if (storage == Storage::kFloat32) std::memcpy(out, from, n * sizeof(float));
  else Kernels().narrow_at_random(from, n, draw.Stream(), static_cast<uint16_t*>(out));
}

void CopyRow(const void* from, Storage storage, int64_t n, const RowBuffer& out, int64_t element) {
  if (storage == out.storage) std::memcpy(out.At(element), from, n * BytesOf(storage));
  else if (out.storage == Storage::kFloat32) WidenRow(from, storage, n, static_cast<float*>(out.At(element)));
  else StoreNearest(static_cast<const float*>(from), n, out.storage, out.At(element));
}

}  // namespace tfps
