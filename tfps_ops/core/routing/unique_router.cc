// A step in three parts. Read: each table's ids become unique, and each unique id gets its place (threads split the tables).
// LayOut: the pieces of all tables get their places in requests and answer (one thread; a few numbers a piece).
// Write: every unique id is written to its request, and every id gets its row of the answer (threads split the tables).
#include "tfps_ops/core/routing/unique_router.h"

#include <algorithm>
#include <numeric>
#include <utility>

namespace tfps {
namespace {

// A set of ids that numbers its members in the order in which they came. Open addressing with linear probing, at most half
// full, so that a probe looks at 1.5 slots on average. It holds numbers of 4 bytes and not ids of 8: the ids are in `members`.
class IdNumbers {
 public:
  // For at most `ids` members in [0, rows). Where the table of rows is hardly larger than the batch, each row has a slot of
  // its own, and nothing is hashed. Example: 100 ids take 256 slots; a table of 200 rows is then used directly.
  IdNumbers(int64_t ids, int64_t rows) {
    // At least 16 slots, so that the shift below is never that of a whole word.
    int bits = 4;
    while ((int64_t{1} << bits) < 2 * ids) ++bits;
    direct_ = rows <= int64_t{1} << bits;
    shift_ = 64 - bits;
    mask_ = (int64_t{1} << bits) - 1;
    slots_.assign(direct_ ? rows : mask_ + 1, -1);
  }

  // The number of `id`. A new id gets the next number and is appended to `members`.
  int32_t Number(int64_t id, std::vector<int64_t>* members) {
    int64_t slot = direct_ ? id : Hash(id);
    // Ends at an empty slot at the latest, and there is always one. (In a direct table the first look decides.)
    for (; slots_[slot] >= 0; slot = (slot + 1) & mask_) {
      if ((*members)[slots_[slot]] == id) return slots_[slot];
    }
    slots_[slot] = static_cast<int32_t>(members->size());
    members->push_back(id);
    return slots_[slot];
  }

 private:
  // The high bits of a product with 2^64 / golden ratio: runs of ids spread evenly.
  int64_t Hash(int64_t id) const {
    return static_cast<int64_t>((static_cast<uint64_t>(id) * 0x9e3779b97f4a7c15u) >> shift_);
  }

  std::vector<int32_t> slots_;  // the number of the member in each slot; -1: empty
  bool direct_;                 // whether slot i is for id i
  int shift_;
  int64_t mask_;
};

// What an id costs: a hash lookup, and the routing of the unique ones spread over all.
constexpr int64_t kNanosecondsAnId = 10;

// What a table costs on average. Tables of a step are of one kind mostly; a large one among small ones is one thread's work
// anyway.
int64_t NanosecondsATable(const std::vector<TableIds>& ids) {
  int64_t count = 0;
  for (const TableIds& table : ids) count += table.count;
  return 1 + count * kNanosecondsAnId / static_cast<int64_t>(ids.size());
}

}  // namespace

// Numbers the pieces of each server in the order of the tables.
PieceMap::PieceMap(std::vector<TableRoute> routes, int64_t servers) : routes_(std::move(routes)), pieces_(servers) {
  for (const TableRoute& route : routes_) {
    std::vector<int64_t>& numbers = numbers_.emplace_back();
    // A server may hold several shards of a table; each is a piece of its own.
    for (int64_t server : route.servers) numbers.push_back(pieces_[server]++);
  }
}

Status UniqueRouter::Read(const std::vector<TableIds>& ids, const ParallelFor& parallel) {
  // Tables have nothing in common here, so each is one thread's.
  parallel(map_.tables(), NanosecondsATable(ids), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) ReadTable(map_.route(t).routing, ids[t], &work_[t]);
  });
  // Looked at only now: whichever thread found a bad id first, the same one is reported.
  for (int64_t t = 0; t < map_.tables(); ++t) {
    if (work_[t].bad_element == kNone) continue;
    return InvalidArgument("id out of range: table '", map_.route(t).name, "' holds ids at least 0 and below ",
                           map_.route(t).routing.rows, ". Received: ", ids[t].ids[work_[t].bad_element]);
  }
  LayOut();
  return Status();
}

UniqueRouter::IdPlace UniqueRouter::FirstBad() const {
  IdPlace place;
  while (work_[place.table].bad_element == kNone) ++place.table;
  place.element = work_[place.table].bad_element;
  return place;
}

void UniqueRouter::ReadTable(const Routing& routing, const TableIds& ids, Work* work) const {
  // Made for each step and table: a table of the batch's size is in the cache by the end of it, and needs no clearing.
  // Ids of a table that grows are no row numbers, however few it is expected to have.
  const int64_t rows = routing.kind == RoutingKind::kKey ? INT64_MAX : routing.rows;
  IdNumbers numbers(ids.count, rows);
  const Locator locate(routing);
  // The most there can be; pages that are never written take no memory.
  work->unique.reserve(std::min(ids.count, rows));
  // How many unique ids each shard has: the counts that a request begins with.
  work->counts.assign(routing.shards, 0);
  for (int64_t i = 0; i < ids.count; ++i) {
    const int64_t id = ids.ids[i];
    // Checked before the hash: the table of numbers is only as large as the rows, where it is direct.
    if (!routing.Has(id)) {
      work->bad_element = i;
      return;
    }
    // For now the number of the unique id; Write replaces it.
    ids.inverse[i] = numbers.Number(id, &work->unique);
  }
  // Routed once an id, after the ids are unique: a step asks for a popular id hundreds of times.
  work->places.reserve(work->unique.size());
  for (int64_t id : work->unique) {
    work->places.push_back(locate(id));
    ++work->counts[work->places.back().shard];
  }
}

// Computes where each piece begins, in its server's request and in the answer. Until the ids of all tables are counted neither
// is known, which is why Read and Write are two passes.
void UniqueRouter::LayOut() {
  // Counts pile up server by server, in the order of the pieces.
  rows_.assign(map_.servers(), 0);
  int64_t first = 0;
  for (int64_t t = 0; t < map_.tables(); ++t) {
    work_[t].first = first;
    first += unique(t);
    const std::vector<int64_t>& servers = map_.route(t).servers;
    work_[t].in_request.resize(servers.size());
    for (size_t shard = 0; shard < servers.size(); ++shard) {
      work_[t].in_request[shard] = map_.pieces(servers[shard]) + rows_[servers[shard]];
      rows_[servers[shard]] += work_[t].counts[shard];
    }
  }
  // The first row of each server in the answer: the rows of the servers before it.
  std::vector<int64_t> first_row(map_.servers());
  std::partial_sum(rows_.begin(), rows_.end() - 1, first_row.begin() + 1);
  for (int64_t t = 0; t < map_.tables(); ++t) {
    const std::vector<int64_t>& servers = map_.route(t).servers;
    work_[t].in_answer.resize(servers.size());
    for (size_t shard = 0; shard < servers.size(); ++shard) {
      const int64_t server = servers[shard];
      work_[t].in_answer[shard] = first_row[server] + work_[t].in_request[shard] - map_.pieces(server);
    }
  }
}

int64_t UniqueRouter::answer_rows() const { return std::accumulate(rows_.begin(), rows_.end(), int64_t{0}); }

void UniqueRouter::Write(const std::vector<TableIds>& ids, const Routed& out, const ParallelFor& parallel) {
  parallel(map_.tables(), NanosecondsATable(ids), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) WriteTable(t, ids[t], out);
  });
}

void UniqueRouter::WriteTable(int64_t table, const TableIds& ids, const Routed& out) {
  Work& work = work_[table];
  const std::vector<int64_t>& servers = map_.route(table).servers;
  for (size_t shard = 0; shard < servers.size(); ++shard) {
    // The head of each request: a count for each piece.
    out.requests[servers[shard]][map_.piece(table, shard)] = work.counts[shard];
  }
  // in_answer and in_request are used up: each place moves on as a row is written to it.
  int32_t* row_of = out.table_order + work.first;
  for (size_t u = 0; u < work.unique.size(); ++u) {
    const Place& place = work.places[u];
    // The next free row of this shard's piece, in the answer and, below, in its server's request.
    const int64_t row = work.in_answer[place.shard]++;
    out.requests[servers[place.shard]][work.in_request[place.shard]++] = place.local;
    out.unique_ids[row] = work.unique[u];
    row_of[u] = static_cast<int32_t>(row);
  }
  // So far `inverse` has the number of each unique id; now it gets that id's row of the answer.
  for (int64_t i = 0; i < ids.count; ++i) ids.inverse[i] = row_of[ids.inverse[i]];
}

}  // namespace tfps
