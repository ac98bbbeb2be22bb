// Parses lines of cells, as of CSV and TSV files, into rows of numbers, buckets of hashed strings, and strings.
//
// It is the fast one of two readers. It knows plain lines: no quotes where quotes have a meaning, a carriage return at the end of
// a line alone, plain numbers. Where a block has anything else, or a wrong line, it declines the block as a whole. The
// caller then has the other reader parse it, which knows all of it and names the line that is wrong. So whatever this
// reader accepts must be what the other one gives, to the bit.
//
// Ownership: a parser owns its columns; text and targets are the caller's. Threads: a parser is constant once it is made; any
// number may parse with it. Cost: about 8 ns a cell; nothing is allocated but for long prefixed strings.
#ifndef TFPS_OPS_CORE_TEXT_LINE_PARSER_H_
#define TFPS_OPS_CORE_TEXT_LINE_PARSER_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "tfps_ops/core/status.h"
#include "tfps_ops/core/text/fingerprint.h"

namespace tfps {

// What becomes of a cell, and the C++ type of its target.
enum class CellType {
  kInt8, kInt16, kInt32, kInt64, kUInt8, kUInt16, kUInt32, kUInt64,
  kFloat32, kFloat64,
  kString,  // std::string_view into the text, or into the parser for a default
  kBucket,  // int64_t: the fingerprint of the prefix and the cell, modulo the buckets
};

// A column as its user describes it.
// Example: {kBucket, "", true, 10, "c1="} makes of a cell "ab" the fingerprint of "c1=ab" modulo 10.
struct TextColumn {
  CellType type = CellType::kInt64;
  std::string default_text;   // what an empty cell counts as, if has_default
  bool has_default = false;   // without one an empty cell is wrong
  int64_t buckets = 0;        // of kBucket, at least 1
  std::string prefix;         // of kBucket
};

// Where the cells of a column go: that of row r to `first` + r * `stride`, counted in elements of the column's C++ type.
// Example: column 2 of a matrix with 5 columns has first = matrix + 2 and stride = 5.
struct CellTarget {
  void* first = nullptr;
  int64_t stride = 1;
};

class LineParser {
 public:
  // A parser for lines whose cells are separated by `delimiter`. With `has_quotes` a quote has a meaning, so text with one is
  // declined. Fails where a default is no value of its column.
  static Result<LineParser> Make(std::vector<TextColumn> columns, char delimiter, bool has_quotes);

  // The number of lines, which is the most rows that the text can have. A last line may have no end.
  static int64_t CountLines(std::string_view text);

  // Parses whole lines. Empty lines are no rows, unless a line has one cell.
  //   fields: for each cell of a line, in order, its column or -1 for a cell that is not read.
  //   targets: one for each column, with room for CountLines(text) rows.
  //   rows: gets the number of rows.
  // Returns whether the text was parsed; otherwise it is declined, and targets have anything in them.
  bool Parse(std::string_view text, const std::vector<int32_t>& fields, const std::vector<CellTarget>& targets,
             int64_t* rows) const;

 private:
  // A column ready to parse.
  struct Column {
    TextColumn given;
    Remainder remainder{1};
    // The default as it is stored. A bucket has its hash here.
    int64_t integer = 0;
    double number = 0;
    // From std::vector's own memory, so that it stays where it is when the parser is moved.
    std::vector<char> text;
  };
  class Pass;

  LineParser() = default;
  static Status Prepare(Column* column);

  std::vector<Column> columns_;
  char delimiter_ = '\t';
  bool has_quotes_ = false;
};

}  // namespace tfps

#endif  // TFPS_OPS_CORE_TEXT_LINE_PARSER_H_
