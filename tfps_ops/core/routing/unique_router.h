// The first half of a lookup, on the worker: makes the ids of a step unique, table by table, and sorts them by the server that
// holds their rows, in one pass.
//
// A table's shards lie on servers; a shard on a server is a *piece*. The pieces of one server are numbered table after table,
// and within a table shard after shard. Each server is sent a *request*: first how many rows of each of its pieces are
// wanted, then these rows, piece after piece. Example, a server with two pieces: [2, 1, 7, 0, 5] asks for the local rows 7
// and 0 of piece 0 and for row 5 of piece 1.
//
// The *answer* is what all servers send back, one after the other: a matrix with a row for each unique id. `inverse` says
// for each id which row of the answer is its own. Within a piece, rows are in the order in which the step first asked for
// them.
//
// Example, one table of 10 rows with `mod` routing on two servers, and the ids 4 7 4 2:
//   server 0 has the even ids, server 1 the odd ones, and id i is the local row i / 2
//   requests [2, 2, 1] and [1, 3]; the answer has the rows of 4, 2 and 7; inverse is 0 2 0 1
#ifndef TFPS_OPS_CORE_ROUTING_UNIQUE_ROUTER_H_
#define TFPS_OPS_CORE_ROUTING_UNIQUE_ROUTER_H_

#include <cstdint>
#include <string>
#include <vector>

#include "tfps_ops/core/parallel.h"
#include "tfps_ops/core/routing/routing.h"
#include "tfps_ops/core/status.h"

namespace tfps {

// Where the shards of one table lie.
struct TableRoute {
  Routing routing;
  std::vector<int64_t> servers;  // [routing.shards], the server of each shard
  std::string name;              // of the table, for messages
};

// Ids of one table in one step, and where to write which row of the answer each of them gets; nothing is owned.
struct TableIds {
  const int64_t* ids = nullptr;  // [count]
  int32_t* inverse = nullptr;    // [count]
  int64_t count = 0;             // at most 2^30 over all tables
};

// Where to write what was found; nothing is owned. Table order is table after table, and within a table as the ids came.
struct Routed {
  std::vector<int64_t*> requests;  // [servers], each [request_size(server)]
  int64_t* unique_ids = nullptr;   // [answer_rows], the global id of each row of the answer
  int32_t* table_order = nullptr;  // [answer_rows], the row of the answer for each unique id in table order
};

// Which pieces there are. A value, made once for a graph; any number of threads may use it.
class PieceMap {
 public:
  // Every server in `routes` must be in [0, servers).
  PieceMap(std::vector<TableRoute> routes, int64_t servers);

  int64_t tables() const { return static_cast<int64_t>(routes_.size()); }
  int64_t servers() const { return static_cast<int64_t>(pieces_.size()); }
  int64_t pieces(int64_t server) const { return pieces_[server]; }
  const TableRoute& route(int64_t table) const { return routes_[table]; }
  // The number of a shard's piece among the pieces of its server.
  int64_t piece(int64_t table, int64_t shard) const { return numbers_[table][shard]; }

 private:
  std::vector<TableRoute> routes_;
  std::vector<std::vector<int64_t>> numbers_;
  std::vector<int64_t> pieces_;
};

// The work of one step, in two halves because the second writes to memory whose size the first finds.
// Cost: O(ids), a hash lookup each, and a routing for each unique one. Threads: tables are shared out over them; the
// object itself belongs to one thread.
class UniqueRouter {
 public:
  // `map` must outlive this.
  explicit UniqueRouter(const PieceMap& map) : map_(map), work_(map.tables()) {}

  // Reads the ids of every table, [map.tables()]. An InvalidArgument error where an id is not in its table: it begins with
  // "id out of range" and names the table, its ids and the first bad id of the first such table, which FirstBad() then places.
  Status Read(const std::vector<TableIds>& ids, const ParallelFor& parallel);

  // Where an id is.
  struct IdPlace {
    int64_t table = 0;
    int64_t element = 0;  // of the table's ids, flattened
  };
  // After Read has refused an id: where it is.
  IdPlace FirstBad() const;

  // After Read: length of a server's request, and rows of the answer of all of them.
  int64_t request_size(int64_t server) const { return map_.pieces(server) + rows_[server]; }
  int64_t answer_rows() const;

  // Writes requests[server], [request_size(server)]; the rows of the answer; and every inverse.
  void Write(const std::vector<TableIds>& ids, const Routed& out, const ParallelFor& parallel);

  // After Read: unique ids of a table.
  int64_t unique(int64_t table) const { return static_cast<int64_t>(work_[table].unique.size()); }

 private:
  static constexpr int64_t kNone = -1;

  // What is known of one table.
  struct Work {
    std::vector<int64_t> unique;     // [unique], in the order first asked for
    std::vector<Place> places;       // [unique]
    std::vector<int64_t> counts;     // [shards], unique ids of each
    std::vector<int64_t> in_answer;  // [shards], the row of the answer where each begins
    std::vector<int64_t> in_request; // [shards], the element of its server's request where each begins
    int64_t first = 0;               // unique ids of the tables before
    int64_t bad_element = kNone;     // the first id that is out of range
  };

  void ReadTable(const Routing& routing, const TableIds& ids, Work* work) const;
  void WriteTable(int64_t table, const TableIds& ids, const Routed& out);
  void LayOut();

  const PieceMap& map_;
  std::vector<Work> work_;
  std::vector<int64_t> rows_;  // [servers], rows asked of each
};

}  // namespace tfps

#endif  // TFPS_OPS_CORE_ROUTING_UNIQUE_ROUTER_H_
