// ---- Genes: columns that are unpacked when they are first asked for.

const GENE = "gene ";
const genes = content.genes ? content.genes.genes : [];
const geneNamed = (name) => genes.find((gene) => gene.name === name);

// The column of a gene; null where there is no such gene in the page.
async function geneColumn(name) {
  const gene = geneNamed(name);
  if (!gene) return null;
  // Asked for twice, it is unpacked once.
  gene.column ||= unpackGene(gene);
  const column = await gene.column;
  if (!columns.includes(column)) columns.push(column);
  return column;
}

async function unpackGene(gene) {
  const [levels, measured] = await Promise.all([unpack(gene.levels), unpack(content.genes.measured)]);
  const codes = new Uint8Array(n).fill(ABSENT);
  for (let i = 0, at = 0; i < n; i++) if (measured[i >> 3] & (128 >> (i & 7))) codes[i] = FIRST + levels[at++];
  const { low, step, high } = gene;
  return prepare({ name: GENE + gene.name, gene: true, bytes: 1, codes, low, step, limits: [low, high] });
}

// Those that a link names.
const genesIn = (link) => {
  const named = [link.get("color") || "", ...[...link.keys()].map((key) => key.slice(key.indexOf(".") + 1))];
  return [...new Set(named.filter((name) => name.startsWith(GENE)).map((name) => name.slice(GENE.length)))];
};
