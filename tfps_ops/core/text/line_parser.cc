#include "tfps_ops/core/text/line_parser.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "tfps_ops/core/text/numbers.h"
#include "tfps_ops/core/text/separators.h"

namespace tfps {
namespace {

// So much text is searched for separators at a time: it and the offsets stay in the nearest cache.
constexpr int64_t kPieceBytes = 8192;
// Longer strings with a prefix are put together on the heap.
constexpr size_t kShortBytes = 256;

const SeparatorKernels& Kernels() {
  static const SeparatorKernels& kernels = SeparatorKernelsFor(BestCpuTarget());
  return kernels;
}

inline bool IsBlank(char c) { return c == ' ' || c == '\t'; }

// Numbers may have blanks around them; strings keep theirs.
inline void Trim(const char** begin, const char** end) {
  while (*begin != *end && IsBlank(**begin)) ++*begin;
  while (*begin != *end && IsBlank((*end)[-1])) --*end;
}

uint64_t FingerprintOf(const std::string& prefix, const char* begin, size_t size) {
  if (prefix.empty()) return Fingerprint64(begin, size);
  const size_t whole = prefix.size() + size;
  if (whole > kShortBytes) return Fingerprint64((prefix + std::string(begin, size)).data(), whole);
  char bytes[kShortBytes];
  std::memcpy(bytes, prefix.data(), prefix.size());
  std::memcpy(bytes + prefix.size(), begin, size);
  return Fingerprint64(bytes, whole);
}

// Reads an integer that fits the type. Unsigned numbers have no sign, not even "-0".
template <class Integer>
inline bool ReadFitting(const char* begin, const char* end, Integer* value) {
  int64_t wide;
  if (!ReadInteger(begin, end, &wide)) return false;
  if (std::is_unsigned_v<Integer> && *begin == '-') return false;
  // 18 digits fit 64 bits, with a sign or without.
  if (sizeof(Integer) < sizeof wide) {
    if (wide < static_cast<int64_t>(std::numeric_limits<Integer>::min())) return false;
    if (wide > static_cast<int64_t>(std::numeric_limits<Integer>::max())) return false;
  }
  *value = static_cast<Integer>(wide);
  return true;
}

}  // namespace

// One call of Parse: where it is in the text, and how far in a line.
class LineParser::Pass {
 public:
  Pass(const LineParser& parser, const std::vector<int32_t>& fields, const std::vector<CellTarget>& targets)
      : parser_(parser), fields_(fields), targets_(targets) {}

  int64_t rows() const { return row_; }
  // The carriage returns that ended lines.
  int64_t returns() const { return returns_; }

  // Parses the cell that a separator ends, and the line if that does.
  bool TakeCell(const char* begin, const char* separator, bool ends_line) {
    const size_t count = fields_.size();
    if (!ends_line) {
      // The last cell of a line is ended by the line.
      if (field_ + 1 >= count) return false;
      return Store(fields_[field_++], begin, separator);
    }
    const char* end = separator;
    if (end != begin && end[-1] == '\r') {
      --end;
      ++returns_;
    }
    // An empty line is none, unless its only cell may be empty.
    if (begin == end && field_ == 0 && count > 1) return true;
    if (field_ + 1 != count || !Store(fields_[field_], begin, end)) return false;
    field_ = 0;
    ++row_;
    return true;
  }

 private:
  bool Store(int32_t number, const char* begin, const char* end) {
    if (number < 0) return true;
    const Column& column = parser_.columns_[number];
    const CellTarget& target = targets_[number];
    const bool is_empty = begin == end;
    if (is_empty && !column.given.has_default) return false;
    switch (column.given.type) {
      case CellType::kBucket:
        return Put(target, is_empty ? column.integer : Bucket(column, begin, end));
      case CellType::kFloat32:
        return StoreFloat<float>(column, target, begin, end);
      case CellType::kInt64:
        return StoreInteger<int64_t>(column, target, begin, end);
      case CellType::kString:
        return Put(target, is_empty ? std::string_view(column.text.data(), column.text.size())
                                    : std::string_view(begin, end - begin));
      case CellType::kFloat64:
        return StoreFloat<double>(column, target, begin, end);
      case CellType::kInt8:
        return StoreInteger<int8_t>(column, target, begin, end);
      case CellType::kInt16:
        return StoreInteger<int16_t>(column, target, begin, end);
      case CellType::kInt32:
        return StoreInteger<int32_t>(column, target, begin, end);
      case CellType::kUInt8:
        return StoreInteger<uint8_t>(column, target, begin, end);
      case CellType::kUInt16:
        return StoreInteger<uint16_t>(column, target, begin, end);
      case CellType::kUInt32:
        return StoreInteger<uint32_t>(column, target, begin, end);
      case CellType::kUInt64:
        return StoreInteger<uint64_t>(column, target, begin, end);
    }
    return false;
  }

  template <class Value>
  bool Put(const CellTarget& target, Value value) {
    static_cast<Value*>(target.first)[row_ * target.stride] = value;
    return true;
  }

  template <class Integer>
  bool StoreInteger(const Column& column, const CellTarget& target, const char* begin, const char* end) {
    Integer value = static_cast<Integer>(column.integer);
    if (begin != end) {
      Trim(&begin, &end);
      if (!ReadFitting(begin, end, &value)) return false;
    }
    return Put(target, value);
  }

  template <class Float>
  bool StoreFloat(const Column& column, const CellTarget& target, const char* begin, const char* end) {
    Float value = static_cast<Float>(column.number);
    if (begin != end) {
      Trim(&begin, &end);
      if (!ReadFloat(begin, end, &value)) return false;
    }
    return Put(target, value);
  }

  static int64_t Bucket(const Column& column, const char* begin, const char* end) {
    return static_cast<int64_t>(column.remainder.Of(FingerprintOf(column.given.prefix, begin, end - begin)));
  }

  const LineParser& parser_;
  const std::vector<int32_t>& fields_;
  const std::vector<CellTarget>& targets_;
  size_t field_ = 0;
  int64_t row_ = 0;
  int64_t returns_ = 0;
};

Status LineParser::Prepare(Column* column) {
  const TextColumn& given = column->given;
  const char* const begin = given.default_text.data();
  const char* const end = begin + given.default_text.size();
  column->text.assign(begin, end);
  if (given.type == CellType::kBucket) {
    if (given.buckets < 1) return InvalidArgument("`buckets` must be at least 1. Received: ", given.buckets, ".");
    column->remainder = Remainder(static_cast<uint64_t>(given.buckets));
    const uint64_t hash = FingerprintOf(given.prefix, begin, given.default_text.size());
    column->integer = static_cast<int64_t>(column->remainder.Of(hash));
    return Status();
  }
  if (!given.has_default || given.type == CellType::kString) return Status();
  const bool is_float = given.type == CellType::kFloat32 || given.type == CellType::kFloat64;
  if (is_float ? ReadFloat(begin, end, &column->number) : ReadInteger(begin, end, &column->integer)) return Status();
  return InvalidArgument("`defaults` must be numbers of their columns. Received: '", given.default_text, "'.");
}

Result<LineParser> LineParser::Make(std::vector<TextColumn> columns, char delimiter, bool has_quotes) {
  LineParser parser;
  parser.delimiter_ = delimiter;
  parser.has_quotes_ = has_quotes;
  for (TextColumn& given : columns) {
    Column column;
    column.given = std::move(given);
    TFPS_RETURN_IF_ERROR(Prepare(&column));
    parser.columns_.push_back(std::move(column));
  }
  return parser;
}

int64_t LineParser::CountLines(std::string_view text) {
  const int64_t size = static_cast<int64_t>(text.size());
  return Kernels().count(text.data(), size, '\n') + (size > 0 && text.back() != '\n');
}

bool LineParser::Parse(std::string_view text, const std::vector<int32_t>& fields, const std::vector<CellTarget>& targets,
                       int64_t* rows) const {
  const SeparatorKernels& kernels = Kernels();
  const int64_t size = static_cast<int64_t>(text.size());
  if (has_quotes_ && kernels.count(text.data(), size, '"') != 0) return false;
  Pass pass(*this, fields, targets);
  std::vector<uint32_t> offsets(std::min(size, kPieceBytes));
  const char* begin = text.data();
  for (int64_t at = 0; at < size; at += kPieceBytes) {
    const char* const piece = text.data() + at;
    const int64_t count = kernels.find(piece, std::min(size - at, kPieceBytes), delimiter_, '\n', offsets.data());
    for (int64_t i = 0; i < count; ++i) {
      const char* const separator = piece + offsets[i];
      if (!pass.TakeCell(begin, separator, *separator == '\n')) return false;
      begin = separator + 1;
    }
  }
  const char* const end = text.data() + size;
  if (size > 0 && text.back() != '\n' && !pass.TakeCell(begin, end, true)) return false;
  *rows = pass.rows();
  // One that ends no line is within a cell, which the other reader refuses. The count costs less than to look for it in each.
  return kernels.count(text.data(), size, '\r') == pass.returns();
}

}  // namespace tfps
