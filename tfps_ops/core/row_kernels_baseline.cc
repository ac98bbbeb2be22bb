// The loops over rows for any CPU: four floats at a time.
#include "tfps_ops/core/pair_kernels.h"
#include "tfps_ops/core/row_kernels.h"

namespace tfps {
namespace baseline {
namespace {

constexpr int kWidth = 4;
typedef float Vec __attribute__((vector_size(kWidth * sizeof(float))));

// A copy of so many bytes is one instruction, on rows that begin anywhere.
inline Vec Load(const float* p) {
  Vec v;
  __builtin_memcpy(&v, p, sizeof(v));
  return v;
}

inline void Store(float* p, Vec v) { __builtin_memcpy(p, &v, sizeof(v)); }

// Element by element: a wider read could cross the end of the memory. Lanes that are left out are 0.
inline Vec LoadPart(const float* p, int64_t n) {
  Vec v = {p[0]};
  if (n > 1) v[1] = p[1];
  if (n > 2) v[2] = p[2];
  return v;
}

inline void StorePart(float* p, int64_t n, Vec v) {
  p[0] = v[0];
  if (n > 1) p[1] = v[1];
  if (n > 2) p[2] = v[2];
}

inline Vec Sqrt(Vec v) {
  return Vec{__builtin_sqrtf(v[0]), __builtin_sqrtf(v[1]), __builtin_sqrtf(v[2]), __builtin_sqrtf(v[3])};
}

// 16 registers of 4 floats hold no three rows worth mentioning.
constexpr int kMostVecs = 0;
constexpr int kVecsALine = 4;

// Sixteen floats by halves, in the order of the wider targets.
inline float SumOfLine(const Vec* line) {
  const Vec four = (line[0] + line[2]) + (line[1] + line[3]);
  return (four[0] + four[2]) + (four[1] + four[3]);
}

}  // namespace

#include "tfps_ops/core/row_kernels.inc"
#include "tfps_ops/core/pair_kernels.inc"
#include "tfps_ops/core/group_kernels.inc"

}  // namespace baseline
}  // namespace tfps
