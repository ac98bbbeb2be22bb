// Registration, shape function and documentation of TfpsRouteUnique.
//
// The shape function knows the number of requests and tables; how long each request is depends on the ids.
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/shape_inference.h"

namespace tfps {
namespace {

using ::tensorflow::shape_inference::InferenceContext;

// How much is unique is known when the ids are; each inverse has the shape of its ids.
absl::Status RouteUniqueShape(InferenceContext* c) {
  int64_t servers = 0, n = 0;
  TF_RETURN_IF_ERROR(c->GetAttr("num_servers", &servers));
  TF_RETURN_IF_ERROR(c->GetAttr("N", &n));
  // Outputs are num_servers requests, unique_ids, table_order, table_sizes and then the inverses.
  for (int s = 0; s < servers; ++s) c->set_output(s, c->Vector(InferenceContext::kUnknownDim));
  // One dimension for both outputs: they have a value for each row of the answer.
  const auto answer = c->Vector(c->UnknownDim());
  c->set_output(servers, answer);
  c->set_output(servers + 1, answer);
  c->set_output(servers + 2, c->Vector(n));
  for (int t = 0; t < n; ++t) c->set_output(servers + 3 + t, c->input(t));
  return absl::OkStatus();
}

// Not stateful: the result follows from the ids and the attributes. The routing of all tables is in attributes and not in
// inputs, so that the kernel checks it once, where the graph is built.
REGISTER_OP("TfpsRouteUnique")
    .Input("ids: N * int64")
    .Output("requests: num_servers * int64")
    .Output("unique_ids: int64")
    .Output("table_order: int32")
    .Output("table_sizes: int64")
    .Output("inverse: N * int32")
    .Attr("N: int >= 1")
    .Attr("num_servers: int >= 1")
    .Attr("tables: list(string)")
    .Attr("kinds: list(string)")
    .Attr("rows: list(int)")
    .Attr("shards: list(int)")
    .Attr("multipliers: list(int)")
    .Attr("offsets: list(int)")
    .Attr("servers: list(int)")
    .SetShapeFn(RouteUniqueShape)
    .Doc(R"doc(
Makes the ids of several tables unique and sorts them out by the server that holds their rows, in one pass.

ids: One tensor a table, any shape.
requests: One vector a server: how many rows of each of its pieces are wanted, then these local rows, piece after piece.
    A piece is a shard of a table; a server's pieces are in the order of the tables, and of the shards within a table.
unique_ids: The id of each row of the answers of all servers, one after the other.
table_order: For each unique id, table after table and within a table as the ids first came, its row in these answers.
table_sizes: Unique ids of each table.
inverse: One tensor a table, the shape of its ids: for each id its row in the answers of all servers.
tables: Name of each table, for messages.
kinds: How the rows of each table are split: div, mod or hash (tfps/placement/routing.py).
rows: Rows of each table; an id that is negative or not below is an InvalidArgument error.
shards: Shards of each table.
multipliers: Factor of each table's rotation.
offsets: Addend of each table's rotation.
servers: The server of each shard of the first table, then of the second, and so on.
)doc");

}  // namespace
}  // namespace tfps
