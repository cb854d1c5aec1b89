/**
 * One picture of all aims: a bar for each, from the line that is the aim, to the right where it is met and to the left
 * where it is missed. The scale is logarithmic: twice as good and half as good are equally long.
 */
import { judge } from './aims.js';
import { formatNumber, type Result } from './report.js';

const WIDTH_PX = 960;
const LABEL_PX = 470;
const RIGHT_PX = 90;
/** About as wide as a letter of a label is on average; longer labels are squeezed into their place. */
const LETTER_PX = 6.4;
const ROW_PX = 20;
const HEAD_PX = 56;
const GROUP_PX = 30;
/** Bars end at ten times better or worse; how much it is stands beside them. */
const SPAN = 10;
const TICKS = [0.1, 0.2, 0.5, 1, 2, 5, 10];

// Colours that keep their contrast on white and on a dark page, as the reader prefers.
const STYLE = `
  text { font: 12px system-ui, sans-serif; fill: #1f2328; }
  .group { font-weight: 600; }
  .soft { fill: #59636e; }
  .grid { stroke: #d1d9e0; }
  .aim { stroke: #59636e; }
  .met { fill: #1a7f37; }
  .missed { fill: #cf222e; }
  @media (prefers-color-scheme: dark) {
    text { fill: #f0f6fc; }
    .soft { fill: #9198a1; }
    .grid { stroke: #3d444d; }
    .aim { stroke: #9198a1; }
    .met { fill: #3fb950; }
    .missed { fill: #f85149; }
  }`;

const escape = (text: string): string =>
  text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;').replaceAll('"', '&quot;');

const zeroX = LABEL_PX + (WIDTH_PX - LABEL_PX - RIGHT_PX) / 2;

/** Where a margin ends, in pixels from the left. */
function toX(margin: number): number {
  const share = Math.log10(Math.min(SPAN, Math.max(1 / SPAN, margin)));
  return Math.round(zeroX + (share * (WIDTH_PX - LABEL_PX - RIGHT_PX)) / 2);
}

function bar(label: string, margin: number, y: number): string {
  const [from, to] = [zeroX, toX(margin)];
  const value = margin > 100 ? 'over 100' : formatNumber(margin);
  const room = LABEL_PX - 16;
  const squeezed = label.length * LETTER_PX > room ? ` textLength="${room}" lengthAdjust="spacingAndGlyphs"` : '';
  return [
    `<text x="${LABEL_PX - 8}" y="${y + 14}" text-anchor="end"${squeezed}>${escape(label)}</text>`,
    `<rect class="${margin >= 1 ? 'met' : 'missed'}" x="${Math.min(from, to)}" y="${y + 4}" width="${Math.max(1, Math.abs(to - from))}" height="${ROW_PX - 7}" rx="2"/>`,
    `<text class="soft" x="${WIDTH_PX - 8}" y="${y + 14}" text-anchor="end">× ${value}</text>`,
  ].join('\n');
}

/** The picture as SVG; undefined where no result has an aim. */
export function plotAims(results: readonly Result[]): string | undefined {
  const parts: string[] = [];
  let y = HEAD_PX;
  for (const result of results) {
    const bars = result.rows.flatMap((row) =>
      (row.aims ?? []).map((aim) => {
        const { text, margin } = judge(result, row, aim);
        return { label: `${row.what}  ${text}`, margin };
      }),
    );
    if (bars.length === 0) continue;
    parts.push(`<text class="group" x="8" y="${y + 20}">${escape(result.name)}</text>`);
    y += GROUP_PX;
    for (const { label, margin } of bars) {
      parts.push(bar(label, margin, y));
      y += ROW_PX;
    }
  }
  if (parts.length === 0) return undefined;
  const height = y + 12;
  const grid = TICKS.map((tick) => {
    const x = toX(tick);
    return `<line class="${tick === 1 ? 'aim' : 'grid'}" x1="${x}" y1="${HEAD_PX}" x2="${x}" y2="${y}"/>
<text class="soft" x="${x}" y="${HEAD_PX - 6}" text-anchor="middle">${tick === 1 ? 'aim' : `${tick} ×`}</text>`;
  });
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH_PX} ${height}" width="${WIDTH_PX}" height="${height}" role="img">
<title>How far each aim is met or missed</title>
<style>${STYLE}
</style>
<text class="group" x="8" y="20">Reached, as a multiple of the aim (right of the line: met; logarithmic)</text>
${grid.join('\n')}
${parts.join('\n')}
</svg>
`;
}
