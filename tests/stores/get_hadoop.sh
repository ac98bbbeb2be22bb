#!/usr/bin/env bash
# Puts the classes of a real HDFS into a folder, for tests: a NameNode with WebHDFS and a DataNode, of Hadoop 2.7.3.
#
#   tests/stores/get_hadoop.sh PYTHON FOLDER
#
# PyPI's pyspark 2.4 ships them (later ones ship Hadoop's client alone), but for the libraries of WebHDFS, which Debian
# has. Nothing is installed. Needs a Java runtime to be used: apt-get install default-jre-headless.
set -euo pipefail
python=$1 folder=$2
[ -e "$folder/complete" ] && exit 0
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
"$python" -m pip download --quiet --no-deps --no-build-isolation --no-binary :all: --dest . pyspark==2.4.8
tar xzf pyspark-2.4.8.tar.gz --wildcards '*/deps/jars/*'
apt-get download -q libjersey1-core-java libjersey1-server-java libjersey1-servlet-java libjersey1-json-java \
  libjsr311-api-java libasm-java libjaxb-api-java libactivation-java libcommons-daemon-java >/dev/null
for package in *.deb; do dpkg -x "$package" debian; done
mkdir -p "$folder"
jars=(hadoop-{annotations,auth,common,hdfs} guava commons-{configuration,lang-2,logging,collections,cli,codec,io,beanutils}
  commons-{digester,httpclient,math3,net} htrace-core jackson-{core-asl,mapper-asl,jaxrs,xc} jetty-{6,util} leveldbjni log4j-1
  netty-{3,all} protobuf-java slf4j xercesImpl javax.servlet-api httpc)
for name in "${jars[@]}"; do cp pyspark-2.4.8/deps/jars/"$name"*.jar "$folder"; done
cp debian/usr/share/java/{jersey1-{core,server,servlet,json},jsr311-api,asm,jaxb-api,javax.activation,commons-daemon}.jar "$folder"
# The pages of the NameNode, which Hadoop wants to find.
for site in hdfs datanode; do
  mkdir -p "$folder/webapps/$site/WEB-INF"
  echo '<web-app/>' >"$folder/webapps/$site/WEB-INF/web.xml"
done
mkdir -p "$folder/webapps/static"
touch "$folder/complete"
